"""Shards in a store: S3 as moto serves it, and a folder by its URL."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.artefacts.dataset import Dataset
from pipeline.errors import FoundryError
from pipeline.ingestion.sources.linked import LIST, find, read_links, write_links
from pipeline.params import PrepareParams
from pipeline.prepare import prepare
from tests.ingestion.test_shards import files, png, write_tar

Make = Callable[..., PrepareParams]


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    (tmp_path / "tars").mkdir()
    for number in range(3):
        write_tar(tmp_path / "tars" / f"{number}.tar", range(10 * number, 10 * number + 10))
    return tmp_path / "tars"


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    (tmp_path / "tables" / "data").mkdir(parents=True)
    for split, numbers in (("train", range(20)), ("test", range(20, 26))):
        rows = [{"image": {"bytes": png(number), "path": None}, "label": f"class {number % 2}"} for number in numbers]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "tables" / "data" / f"{split}-00000-of-00001.parquet")
    return tmp_path / "tables"


def upload(folder: Path, url: str) -> None:
    filesystem, root = fsspec.url_to_fs(url)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            filesystem.put_file(str(path), f"{root}/{path.relative_to(folder).as_posix()}")


def linked(url: str, raw: Path) -> Path:
    """A folder with the list of the shards below a URL."""
    raw.mkdir(exist_ok=True)
    (raw / LIST).write_text(write_links(find(url)))
    return raw


@pytest.mark.parametrize("kind", ["tars", "tables"])
def test_shards_in_a_bucket_are_prepared_to_the_bytes_of_a_folder_of_them(
    kind: str, request: pytest.FixtureRequest, bucket: str, prepare_params: Make, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(kind)
    upload(folder, f"{bucket}/{kind}/set")
    prepare(folder, tmp_path / "of the folder", prepare_params())
    prepare(linked(f"{bucket}/{kind}/set", tmp_path / "raw"), tmp_path / "of the bucket", prepare_params())
    assert files(tmp_path / "of the bucket") == files(tmp_path / "of the folder")


def test_of_a_linked_set_that_has_grown_only_the_new_shard_is_downloaded(
    bucket: str, tars: Path, prepare_params: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    monkeypatch.setenv("NPROC", "2")

    upload(tars, f"{bucket}/set")
    raw, examined = linked(f"{bucket}/set", tmp_path / "raw"), tmp_path / "examined"
    prepare(raw, tmp_path / "before", prepare_params(), examined=examined)
    write_tar(tars / "9.tar", range(90, 95))
    upload(tars, f"{bucket}/set")
    linked(f"{bucket}/set", raw)
    # What is not in the bucket cannot be downloaded.
    for number in range(3):
        boto3.client("s3").delete_object(Bucket=bucket.removeprefix("s3://"), Key=f"set/{number}.tar")
    prepare(raw, tmp_path / "after", prepare_params(), examined=examined)
    prepare(tars, tmp_path / "of the folder", prepare_params())
    assert files(tmp_path / "after") == files(tmp_path / "of the folder")


def test_a_shard_that_has_changed_since_is_refused(tars: Path, prepare_params: Make, tmp_path: Path) -> None:
    raw = linked(tars.as_uri(), tmp_path / "raw")
    write_tar(tars / "1.tar", range(70, 80))
    os.utime(tars / "1.tar", (1, 1))
    with pytest.raises(
        FoundryError, match=r"file://.*/1\.tar: has changed since it was linked: .*`foundry data link URL`"
    ):
        prepare(raw, tmp_path / "out", prepare_params())


def test_a_shard_that_is_gone_is_named(tars: Path, prepare_params: Make, tmp_path: Path) -> None:
    raw = linked(tars.as_uri(), tmp_path / "raw")
    (tars / "1.tar").unlink()
    with pytest.raises(FoundryError, match=r"file://.*/1\.tar: not found"):
        prepare(raw, tmp_path / "out", prepare_params())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nothing://bucket/set", "nothing://bucket/set: Protocol not known: nothing"),
        ("file:///nowhere/at/all", "file:///nowhere/at/all: found no files, wanted tar files"),
    ],
)
def test_a_url_that_names_nothing_is_refused(url: str, message: str) -> None:
    with pytest.raises(FoundryError, match=message):
        find(url)


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_does_not_exist_is_named() -> None:
    with pytest.raises(FoundryError, match="s3://nowhere/set: "):
        find("s3://nowhere/set")


def test_tables_that_disagree_about_classes_are_prepared_as_in_a_folder(
    tables: Path, prepare_params: Make, tmp_path: Path
) -> None:
    rows = [{"image": png(number), "label": number % 2} for number in range(30, 35)]
    pq.write_table(pa.Table.from_pylist(rows), tables / "data" / "train-00001-of-00001.parquet")
    prepare(tables, tmp_path / "of the folder", prepare_params())
    prepare(linked(tables.as_uri(), tmp_path / "raw"), tmp_path / "linked", prepare_params())
    assert files(tmp_path / "linked") == files(tmp_path / "of the folder")
    assert Dataset.open(tmp_path / "linked").info.class_names == ("0", "1", "class 0", "class 1")


def test_single_images_are_not_linked(photo_folder: Path) -> None:
    with pytest.raises(FoundryError, match=r"found china/00\.jpg, .*are copied: `foundry data add`"):
        find(photo_folder.as_uri())


def test_a_list_that_is_not_alone_or_not_a_list_is_refused(tars: Path, prepare_params: Make, tmp_path: Path) -> None:
    raw = linked(tars.as_uri(), tmp_path / "raw")
    shutil.copy(tars / "0.tar", raw)
    with pytest.raises(FoundryError, match=r"found 0\.tar beside shards\.jsonl, wanted it alone"):
        prepare(raw, tmp_path / "out", prepare_params())
    (raw / "0.tar").unlink()
    for line in ("no JSON", json.dumps({"url": "s3://bucket/0.tar"}), "[]"):
        (raw / LIST).write_text(f"{line}\n")
        with pytest.raises(FoundryError, match=r"shards\.jsonl, line 1: "):
            read_links(raw / LIST)
