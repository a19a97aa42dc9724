from __future__ import annotations

import io
import os
import sys
import tarfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from pipeline.errors import FoundryError
from pipeline.ingestion import shards
from pipeline.ingestion.decode import Wanted
from pipeline.ingestion.shards import delete_unused, examine_shard, read_shard
from pipeline.ingestion.sources import RawImage, RawShard, folder
from pipeline.ingestion.workers import in_order
from pipeline.params import PrepareParams
from pipeline.prepare import prepare

Make = Callable[..., PrepareParams]
WANTED = Wanted(8, 3)
ROOT = Path(__file__).parents[2]


def files(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def png(number: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)).save(content, "PNG")
    return content.getvalue()


def write_tar(path: Path, numbers: range) -> None:
    """A shard of a WebDataset with two classes."""
    with tarfile.open(path, "w") as archive:
        for number in numbers:
            for suffix, content in (("png", png(number)), ("cls", str(number % 2).encode())):
                member = tarfile.TarInfo(f"{number:05}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    for number in range(20):
        write_tar(tmp_path / "raw" / f"{number:02}.tar", range(3 * number, 3 * number + 3))
    return tmp_path / "raw"


def test_the_number_of_workers_changes_no_byte(
    photo_folder: Path, prepare_params: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "FILES_PER_SHARD", 4)
    (photo_folder / "china" / "broken.png").write_bytes(b"no picture")
    Image.fromarray(np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)).save(photo_folder / "china" / "deep.png")
    for number in (1, 2, 3):
        monkeypatch.setenv("NPROC", str(number))
        prepare(photo_folder, tmp_path / f"{number}", prepare_params(), examined=tmp_path / f"examined {number}")
    assert files(tmp_path / "1") == files(tmp_path / "2") == files(tmp_path / "3")
    # Two passes: the deep image asks for another range of values.
    assert len(files(tmp_path / "examined 3")) == len(files(tmp_path / "examined 1")) > 2 * 2 * 4


def test_of_twenty_shards_and_one_more_only_the_new_one_is_examined(
    tars: Path, prepare_params: Make, tmp_path: Path
) -> None:
    examined, params = tmp_path / "examined", prepare_params(source="archive")
    prepare(tars, tmp_path / "before", params, examined=examined)
    written = {path: path.stat().st_ino for path in examined.iterdir()}
    assert len(written) == 2 * 20
    write_tar(tars / "00a.tar", range(60, 63))
    prepare(tars, tmp_path / "grown", params, examined=examined)
    after = {path: path.stat().st_ino for path in examined.iterdir()}
    assert after.items() > written.items()
    assert len(after) == 2 * 21
    prepare(tars, tmp_path / "at once", params)
    assert files(tmp_path / "grown") == files(tmp_path / "at once")


def test_files_added_to_a_folder_leave_the_shards_beside_them_as_they_are() -> None:
    paths = [Path(f"cat/{number:05}.png") for number in range(5000)]
    more = sorted([*paths, *(Path(f"cat/{number:05}a.png") for number in range(2000, 2010))])
    before, after = ({tuple(shard) for shard in folder._divided(each)} for each in (paths, more))
    assert len(before) > 2
    assert len(before - after) <= 1


def test_a_result_has_another_key_where_anything_it_depends_on_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = RawImage("a.png", None, png(0), 9, label="cat")
    changed = [
        RawImage("b.png", None, png(0), 9, label="cat"),
        RawImage("a.png", None, png(1), 9, label="cat"),
        RawImage("a.png", None, png(0), 9, label="dog"),
        RawImage("a.png", None, png(0), 9, label="cat", split="train"),
        RawImage("a.png", None, None, 9, label="cat"),
        RawImage("a.png", None, b"", 9, label="cat"),
        RawImage("a.png", None, np.zeros((4, 4), np.uint8), 9, label="cat"),
        RawImage("a.png", None, np.zeros((2, 8), np.uint8), 9, label="cat"),
        RawImage("a.png", None, np.zeros((2, 4), np.uint16), 9, label="cat"),
    ]

    def key(raw: RawImage, wanted: Wanted = WANTED) -> str:
        return examine_shard(RawShard(lambda: iter([raw])), wanted, tmp_path, num_threads=1)

    keys = [key(image), *map(key, changed), key(image, Wanted(16, 3)), key(image, Wanted(8, 3, background="black"))]
    assert key(image) == keys[0]
    monkeypatch.setattr(shards, "_code", lambda: "of another release")
    keys.append(key(image))
    assert len(set(keys)) == len(keys)


def test_what_is_read_equals_what_was_examined(tmp_path: Path) -> None:
    images = [RawImage(f"{number}.png", None, png(number), 9, label="cat", split="train") for number in range(3)]
    images[1] = RawImage("1.png", None, b"text", 4, label="cat")
    key = examine_shard(RawShard(lambda: iter(images)), WANTED, tmp_path, num_threads=1)
    shard = read_shard(tmp_path, key)
    assert shard.rows["file"].tolist() == ["0.png", "1.png", "2.png"]
    assert shard.rows["state"].tolist() == ["accepted", "quarantined", "accepted"]
    assert shard.quarantined_bytes == {"1.png": b"text"}
    pixels = np.frombuffer(shard.pixels.read_bytes(), np.uint8).reshape(2, 8, 8, 3)
    with Image.open(io.BytesIO(png(2))) as image:
        np.testing.assert_array_equal(pixels[1], np.asarray(image))


@pytest.mark.parametrize("suffix", [".parquet", ".pixels"])
@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-8])], ids=["gone", "cut"]
)
def test_a_result_that_is_not_whole_is_made_again(
    tmp_path: Path, suffix: str, damage: Callable[[Path], object]
) -> None:
    shard = RawShard(partial(iter, [RawImage("0.png", None, png(0), 9)]))
    key = examine_shard(shard, WANTED, tmp_path, 1)
    before = files(tmp_path)
    damage(tmp_path / f"{key}{suffix}")
    assert examine_shard(shard, WANTED, tmp_path, 1) == key
    assert files(tmp_path) == before


def test_results_that_nobody_used_for_a_month_are_deleted(tmp_path: Path) -> None:
    used, unused = (
        examine_shard(RawShard(partial(iter, [RawImage(f"{number}.png", None, png(number), 9)])), WANTED, tmp_path, 1)
        for number in range(2)
    )
    month_ago = time.time() - 31 * 24 * 3600
    for key in (used, unused):
        os.utime(tmp_path / f"{key}.parquet", (month_ago, month_ago))
    examine_shard(RawShard(partial(iter, [RawImage("0.png", None, png(0), 9)])), WANTED, tmp_path, 1)
    delete_unused(tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == {used}


def test_the_first_damaged_shard_is_named_whoever_reads_it(
    tars: Path, prepare_params: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tars / "02.tar").write_bytes((tars / "02.tar").read_bytes()[:700])
    (tars / "03.tar").write_bytes(b"no archive")
    for number in ("1", "2"):
        monkeypatch.setenv("NPROC", number)
        with pytest.raises(FoundryError, match=r"02\.tar: not a readable archive"):
            prepare(tars, tmp_path / "out", prepare_params(source="archive"))


def test_a_killed_worker_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(FoundryError, match=r"one of 2 processes was killed.*NPROC=1"):
        list(in_order(os._exit, [1, 1], 2))


def test_results_come_in_the_order_of_the_items() -> None:
    assert list(in_order(abs, [-3, 1, -2, 0], 2)) == [3, 1, 2, 0]


SLEEPING = """
import time
from pipeline.ingestion.workers import in_order
if __name__ == "__main__":
    list(in_order(time.sleep, [600, 600], 2))
"""


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    (tmp_path / "sleeping.py").write_text(SLEEPING)
    parent = psutil.Popen([sys.executable, tmp_path / "sleeping.py"], env=os.environ | {"PYTHONPATH": str(ROOT)})
    started = {}
    while len(started) < 4:  # a fork server, two workers and Python's tracker of resources
        started = {child.pid: child for child in parent.children(recursive=True)}
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    assert psutil.wait_procs(started.values(), timeout=60)[1] == []


@pytest.mark.parametrize("requested", ["0", "-1", "two"])
def test_a_wrong_number_of_processes_is_refused(
    tars: Path, prepare_params: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requested: str
) -> None:
    monkeypatch.setenv("NPROC", requested)
    with pytest.raises(FoundryError, match=f"NPROC: should be a whole number from 1 on \\(got '{requested}'\\)"):
        prepare(tars, tmp_path / "out", prepare_params(source="archive"))
