"""How people lay out their images: splits, metadata, captions, junk, folders and archives."""

from __future__ import annotations

import os
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import FoundryError
from pipeline.ingestion.sources import RawImage, kind_of
from tests.ingestion.sources.reading import labels, read, reasons, write


def splits(images: list[RawImage]) -> dict[str, str | None]:
    return {image.file: image.split for image in images}


def zipped(folder: Path, archive: Path) -> None:
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*.*")):
            file.write(path, path.relative_to(folder))


def tarred(folder: Path, archive: Path) -> None:
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w") as file:
        file.add(folder, ".")


def plain(folder: Path, target: Path) -> None:
    folder.rename(target)


PACKED = pytest.mark.parametrize(
    ("pack", "name"), [(plain, "."), (zipped, "set.zip"), (tarred, "set.tar")], ids=["folder", "zip", "tar"]
)


Pack = Callable[[Path, Path], None]


@PACKED
@pytest.mark.parametrize("kind", ["images", "archive"])
def test_split_folders_are_no_classes(tmp_path: Path, pack: Pack, name: str, kind: str) -> None:
    for path in ("train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "Test/dog/4.png"):
        write(tmp_path / "set" / path)
    pack(tmp_path / "set", tmp_path / "raw" / name)
    images = read(tmp_path / "raw", kind)
    assert [image.label for image in images] == ["dog", "cat", "dog", "cat"] or sorted(
        (image.file[-5:], image.label) for image in images
    ) == [("1.png", "cat"), ("2.png", "dog"), ("3.png", "cat"), ("4.png", "dog")]
    assert {image.file[-5:]: image.split for image in images} == {
        "1.png": "train", "2.png": "train", "3.png": "held_out", "4.png": "held_out",
    }  # fmt: skip


def test_split_folders_without_classes_are_splits(tmp_path: Path) -> None:
    for path in ("train/1.png", "train/2.png", "test/3.png"):
        write(tmp_path / path)
    images = read(tmp_path, "images", labelled=False)
    assert splits(images) == {"test/3.png": "held_out", "train/1.png": "train", "train/2.png": "train"}


def test_a_file_beside_the_folders_of_splits_is_trained_on_and_has_no_class(tmp_path: Path) -> None:
    for path in ("train/dog/1.png", "test/dog/2.png", "stray.png"):
        write(tmp_path / path)
    assert splits(read(tmp_path, "images", labelled=False))["stray.png"] == "train"
    assert reasons(read(tmp_path, "images")) == {"stray.png": "in no class folder"}


def test_classes_of_which_one_is_called_test_are_classes(tmp_path: Path) -> None:
    for path in ("test/1.png", "dog/2.png"):
        write(tmp_path / path)
    assert set(labels(read(tmp_path, "images")).values()) == {"test", "dog"}


@PACKED
@pytest.mark.parametrize("table", [
    ("metadata.csv", b"file_name,label,text\n1.png,cat,a cat\n2.png,dog,\n"),
    ("metadata.jsonl", b'{"file_name": "1.png", "label": "cat"}\n{"file_name": "2.png", "label": "dog"}\n'),
], ids=["csv", "jsonl"])  # fmt: skip
def test_metadata_of_hugging_face_name_the_classes(
    tmp_path: Path, pack: Pack, name: str, table: tuple[str, bytes]
) -> None:
    for path in ("train/1.png", "train/2.png", "test/1.png", "test/2.png"):
        write(tmp_path / "set" / path)
    for split in ("train", "test"):
        write(tmp_path / "set" / split / table[0], table[1])
    pack(tmp_path / "set", tmp_path / "raw" / name)
    images = read(tmp_path / "raw", "images")
    assert sorted((image.file[-5:], str(image.label), str(image.split)) for image in images) == [
        ("1.png", "cat", "held_out"), ("1.png", "cat", "train"),
        ("2.png", "dog", "held_out"), ("2.png", "dog", "train"),
    ]  # fmt: skip


def test_metadata_that_are_no_table_are_an_error(tmp_path: Path) -> None:
    write(tmp_path / "1.png")
    write(tmp_path / "metadata.jsonl", b"{")
    with pytest.raises(FoundryError, match=r"metadata\.jsonl: not a readable table of images"):
        read(tmp_path, "images")


@pytest.mark.parametrize("content", [
    "file_name;label\n./1.png;Käse\nsub\\2.png;dog\n",
    "File_Name\tLabel\n1.png\tKäse\nsub/2.png\tdog\n",
    "\ufefffile_name , label\n1.png , Käse\nsub//2.png , dog\n",
])  # fmt: skip
def test_tables_may_be_as_spreadsheet_programs_write_them(tmp_path: Path, content: str) -> None:
    for path in ("1.png", "sub/2.png"):
        write(tmp_path / path)
    write(tmp_path / "metadata.csv", content.encode())
    assert labels(read(tmp_path, "images")) == {"1.png": "Käse", "sub/2.png": "dog"}


def test_tables_find_files_whose_names_are_written_with_two_characters_a_letter(tmp_path: Path) -> None:
    write(tmp_path / unicodedata.normalize("NFD", "ä.png"))
    write(tmp_path / "metadata.csv", unicodedata.normalize("NFC", "file_name,label\nä.png,dog\n").encode())
    assert list(labels(read(tmp_path, "images")).values()) == ["dog"]


def test_an_image_that_the_table_of_classes_does_not_name_has_that_reason(tmp_path: Path) -> None:
    for path in ("1.png", "2.png"):
        write(tmp_path / path)
    write(tmp_path / "metadata.csv", b"file_name,label\n1.png,dog\n9.png,cat\n")
    assert reasons(read(tmp_path, "images")) == {"2.png": "no class in metadata.csv or metadata.jsonl"}


@PACKED
@pytest.mark.parametrize(("content", "message"), [
    ("file_name,label\n1.png,dog\n1.png,cat\n", r"metadata\.csv: 1\.png is both dog and cat"),
    ("file_name,label\nx/1.png,dog\n", r"metadata\.csv: found no file with a name of column file_name, such as x/1\.png"),
])  # fmt: skip
def test_tables_that_contradict_themselves_or_name_no_image_are_an_error(
    tmp_path: Path, pack: Pack, name: str, content: str, message: str
) -> None:
    write(tmp_path / "set/1.png")
    write(tmp_path / "set/metadata.csv", content.encode())
    pack(tmp_path / "set", tmp_path / "raw" / name)
    with pytest.raises(FoundryError, match=message):
        read(tmp_path / "raw", "images")


def test_json_that_is_nested_too_deeply_is_no_table(tmp_path: Path) -> None:
    write(tmp_path / "1.png")
    write(tmp_path / "metadata.jsonl", b"[" * 100_000)
    with pytest.raises(FoundryError, match=r"metadata\.jsonl: not a readable table of images"):
        read(tmp_path, "images")


@pytest.mark.parametrize("name", ["metadata.csv", "set.parquet", "set.zip", "set.tar", "set.npz", "images.npy"])
@pytest.mark.parametrize(("make", "reason"), [
    (os.mkfifo, "not a regular file"),
    (lambda path: path.symlink_to("nowhere"), "a broken link"),
], ids=["pipe", "link"])  # fmt: skip
def test_a_table_or_archive_that_is_no_file_is_named_and_not_waited_for(
    tmp_path: Path, name: str, make: Callable[[Path], None], reason: str
) -> None:
    if name == "metadata.csv":
        write(tmp_path / "1.png")
    make(tmp_path / name)
    with pytest.raises(FoundryError, match=f"{name}: {reason}"):
        read(tmp_path, kind_of(tmp_path))


def test_a_table_of_classes_out_of_the_folder_is_not_read(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.csv", b"file_name,label\n1.png,dog\n")
    write(tmp_path / "raw/1.png")
    (tmp_path / "raw/metadata.csv").symlink_to(secret)
    with pytest.raises(FoundryError, match=r"metadata\.csv: a link out of the folder"):
        read(tmp_path / "raw", "images")


def test_captions_and_notes_are_no_images(tmp_path: Path) -> None:
    for path in ("cat/1.png", "cat/1.txt", "cat/2.jpg", "cat/2.json", "README.md", "cat/LICENSE", "classes.txt"):
        write(tmp_path / path)
    write(tmp_path / "cat/lost.txt")
    images = read(tmp_path, "images")
    assert [image.file for image in images] == ["cat/1.png", "cat/2.jpg", "cat/lost.txt"]


def test_junk_of_systems_and_network_disks_is_ignored(tmp_path: Path) -> None:
    for path in (
        "cat/1.png",
        "@eaDir/1.png",
        "$RECYCLE.BIN/a/1.png",
        "cat/@eaDir/1.png",
        "cat/Thumbs.db",
        "cat/THUMBS.DB",
    ):
        write(tmp_path / path)
    assert [image.file for image in read(tmp_path, "images")] == ["cat/1.png"]


def test_two_ways_to_write_a_letter_are_one_class(tmp_path: Path) -> None:
    for number, form in enumerate(("NFC", "NFD")):
        write(tmp_path / unicodedata.normalize(form, "Käse") / f"{number}.png")  # type: ignore[arg-type]
    assert len(list(tmp_path.iterdir())) == 2
    assert set(labels(read(tmp_path, "images")).values()) == {unicodedata.normalize("NFC", "Käse")}


@PACKED
def test_a_flat_folder_that_should_have_classes_says_what_to_set(tmp_path: Path, pack: Pack, name: str) -> None:
    write(tmp_path / "set" / "1.png")
    pack(tmp_path / "set", tmp_path / "raw" / name)
    with pytest.raises(FoundryError, match="in no class folders: set prepare.labelled to false"):
        read(tmp_path / "raw", "images")
    assert len(read(tmp_path / "raw", "images", labelled=False)) == 1


@pytest.mark.parametrize(("name", "recipe"), [
    ("data_batch_1", "CIFAR's pickles, which are never loaded: save images and labels as .npy"),
    ("images.mat", "save images and labels as .npy"),
    ("set.pkl", "pickles, which are never loaded"),
    ("shard.tfrecord", "records of another framework"),
])  # fmt: skip
def test_data_of_other_programs_get_a_recipe(tmp_path: Path, name: str, recipe: str) -> None:
    write(tmp_path / name)
    with pytest.raises(FoundryError, match=recipe):
        read(tmp_path, "images")


def test_arrays_where_files_were_expected_say_which_kind_to_set(tmp_path: Path) -> None:
    write(tmp_path / "images.npy")
    with pytest.raises(FoundryError, match="found arrays, wanted image files: prepare.source is images, set arrays"):
        read(tmp_path, "images")
