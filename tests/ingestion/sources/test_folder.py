"""Folders of image files, with links, pipes and files that must not be read."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.ingestion.sources.raw import MAX_BYTES
from tests.ingestion.sources.reading import labels, read, reasons, write


def test_the_first_sub_folder_is_the_class(tmp_path: Path) -> None:
    for name in ("dog/2.png", "cat/1.png", "cat/kittens/a b.png", "Zebra/ä.png"):
        write(tmp_path / name)
    images = read(tmp_path, "images")
    assert [image.file for image in images] == ["Zebra/ä.png", "cat/1.png", "cat/kittens/a b.png", "dog/2.png"]
    assert [image.label for image in images] == ["Zebra", "cat", "cat", "dog"]
    assert {image.content for image in images} == {b"picture"}


def test_a_single_folder_around_the_class_folders_is_no_class(tmp_path: Path) -> None:
    for name in ("photos/dog/2.png", "photos/cat/1.png", "stray.png"):
        write(tmp_path / name)
    images = read(tmp_path, "images")
    assert labels(images) == {"photos/cat/1.png": "cat", "photos/dog/2.png": "dog"}
    assert reasons(images) == {"stray.png": "in no class folder"}


def test_a_single_class_is_a_class(tmp_path: Path) -> None:
    write(tmp_path / "cat/1.png")
    assert labels(read(tmp_path, "images")) == {"cat/1.png": "cat"}


def test_files_in_no_class_folder_are_yielded_with_a_reason(tmp_path: Path) -> None:
    for name in ("1.png", "cat/1.png", "dog/1.png"):
        write(tmp_path / name)
    assert reasons(read(tmp_path, "images")) == {"1.png": "in no class folder"}


def test_without_classes_images_lie_at_any_depth(tmp_path: Path) -> None:
    for name in ("1.png", "a/2.png", "a/b/c/3.png"):
        write(tmp_path / name)
    assert labels(read(tmp_path, "images", labelled=False)) == {"1.png": None, "a/2.png": None, "a/b/c/3.png": None}


def test_hidden_and_system_files_are_ignored(tmp_path: Path) -> None:
    for name in (".gitignore", ".DS_Store", "cat/.hidden.png", ".git/x.png", "__MACOSX/cat/1.png", "cat/Thumbs.db"):
        write(tmp_path / name)
    write(tmp_path / "cat/1.png")
    assert [image.file for image in read(tmp_path, "images")] == ["cat/1.png"]


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    secret = write(tmp_path / "secret/key.png", b"secret")
    write(raw / "cat/1.png")
    (raw / "cat/out.png").symlink_to(secret)
    (raw / "cat/relative.png").symlink_to("../../secret/key.png")
    (raw / "cat/nowhere.png").symlink_to("missing.png")
    (raw / "cat/loop.png").symlink_to("loop.png")
    (raw / "cat/inside.png").symlink_to("1.png")
    (raw / "dog").symlink_to(tmp_path / "secret")
    images = read(raw, "images")
    assert reasons(images) == {
        "cat/out.png": "a link out of the folder: copy what it points to (cp -rL)",
        "cat/relative.png": "a link out of the folder: copy what it points to (cp -rL)",
        "cat/nowhere.png": "a broken link",
        "cat/loop.png": "a broken link",
        "dog": "a link out of the folder: copy what it points to (cp -rL)",
    }
    assert labels(images) == {"cat/1.png": "cat", "cat/inside.png": "cat"}
    assert not any(image.content == b"secret" for image in images)


def test_links_to_folders_are_not_walked(tmp_path: Path) -> None:
    write(tmp_path / "cat/1.png")
    (tmp_path / "cat/again").symlink_to(tmp_path / "cat")
    assert reasons(read(tmp_path, "images")) == {"cat/again": "a link to a folder: copy what it points to (cp -rL)"}


def test_a_raw_folder_that_is_a_link_itself_is_read(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/cat/1.png")
    (tmp_path / "raw").symlink_to(tmp_path / "elsewhere")
    assert labels(read(tmp_path / "raw", "images")) == {"cat/1.png": "cat"}


def test_named_pipes_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    os.mkfifo(tmp_path / "cat/pipe.png")
    assert reasons(read(tmp_path, "images")) == {"cat/pipe.png": "not a regular file"}


def test_huge_files_are_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "cat/huge.png")
    os.truncate(path, MAX_BYTES + 1)
    (image,) = read(tmp_path, "images")
    assert (image.content, image.num_bytes) == (None, MAX_BYTES + 1)
    assert image.reason == f"{MAX_BYTES + 1} bytes, at most {MAX_BYTES} are read"


def test_names_that_are_not_utf_8_are_written_with_escapes(tmp_path: Path) -> None:
    write(tmp_path / os.fsdecode(b"caf\xe9/\xff.png"))
    (image,) = read(tmp_path, "images")
    assert (image.file, image.label) == ("caf\\xe9/\\xff.png", "caf\\xe9")
    image.file.encode("utf-8")
