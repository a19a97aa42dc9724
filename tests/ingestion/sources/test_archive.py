"""Zip and tar archives, well-formed, damaged and hostile."""

from __future__ import annotations

import io
import os
import stat
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import FoundryError
from pipeline.ingestion.sources.raw import MAX_BYTES
from tests.ingestion.sources.reading import labels, read, reasons, write

TAR_SUFFIXES = {"": "w", ".gz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, members: dict[str, bytes | tarfile.TarInfo], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload] - one of its modes
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


MEMBERS = {"dog/2.png": b"two", "cat/ä b.png": b"one", "cat/deep/3.png": b"three"}


def test_zip_members_are_images_with_classes(tmp_path: Path) -> None:
    make_zip(tmp_path / "pets.zip", MEMBERS)
    images = read(tmp_path, "archive")
    assert {image.file: image.content for image in images} == {f"pets.zip/{n}": c for n, c in MEMBERS.items()}
    assert labels(images) == {f"pets.zip/{name}": name[:3] for name in MEMBERS}


@pytest.mark.parametrize("suffix", TAR_SUFFIXES)
def test_tar_members_are_images_with_classes(tmp_path: Path, suffix: str) -> None:
    path = make_tar(
        tmp_path / f"pets.tar{suffix}", {f"./{name}": c for name, c in MEMBERS.items()}, TAR_SUFFIXES[suffix]
    )
    images = read(tmp_path, "archive")
    assert {image.file: image.content for image in images} == {f"{path.name}/{n}": c for n, c in MEMBERS.items()}
    assert labels(images) == {f"{path.name}/{name}": name[:3] for name in MEMBERS}


def test_the_folder_that_was_packed_is_no_class(tmp_path: Path) -> None:
    make_zip(tmp_path / "pets.zip", {f"pets/{name}": content for name, content in MEMBERS.items()})
    assert set(labels(read(tmp_path, "archive")).values()) == {"cat", "dog"}


def test_hidden_and_system_files_in_archives_are_ignored(tmp_path: Path) -> None:
    junk = {"__MACOSX/cat/._1.png": b"", "cat/.DS_Store": b"", "cat/": b"", "./.gitignore": b""}
    make_zip(tmp_path / "pets.zip", {**junk, "cat/1.png": b"one"})
    assert [image.file for image in read(tmp_path, "archive")] == ["pets.zip/cat/1.png"]


@pytest.mark.parametrize("pack", [make_zip, make_tar])
def test_members_with_paths_out_of_the_archive_are_rejected_and_nothing_is_written(
    tmp_path: Path, pack: Callable[..., Path]
) -> None:
    raw = tmp_path / "a/b/raw"
    raw.mkdir(parents=True)
    evil = ["../../out.png", "/tmp/absolute.png", "cat/../../../out.png", "C:/windows.png"]  # noqa: S108 - never made
    path = pack(
        raw / ("pets.zip" if pack is make_zip else "pets.tar"), {**dict.fromkeys(evil, b"x"), "cat/1.png": b"one"}
    )
    before = sorted(tmp_path.rglob("*"))
    images = read(raw, "archive")
    assert reasons(images) == {f"{path.name}/{name}": "its path leads out of the archive" for name in evil}
    assert labels(images) == {f"{path.name}/cat/1.png": "cat"}
    assert {image.label for image in images if image.reason} == {None}
    assert sorted(tmp_path.rglob("*")) == before


def test_links_and_devices_in_a_tar_are_rejected(tmp_path: Path) -> None:
    make_tar(tmp_path / "pets.tar", {
        "cat/1.png": b"one",
        "link": special("cat/link.png", tarfile.SYMTYPE, "/etc/passwd"),
        "hard": special("cat/hard.png", tarfile.LNKTYPE, "cat/1.png"),
        "pipe": special("cat/pipe.png", tarfile.FIFOTYPE),
        "device": special("cat/device.png", tarfile.CHRTYPE),
    })  # fmt: skip
    assert reasons(read(tmp_path, "archive")) == {
        "pets.tar/cat/link.png": "a link",
        "pets.tar/cat/hard.png": "a link",
        "pets.tar/cat/pipe.png": "not a regular file",
        "pets.tar/cat/device.png": "not a regular file",
    }


def test_links_in_a_zip_are_rejected(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        info = zipfile.ZipInfo("cat/link.png")
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    assert reasons(read(tmp_path, "archive")) == {"pets.zip/cat/link.png": "a link"}


def patched_zip(path: Path, offset_local: int, offset_central: int, value: bytes) -> None:
    """Change a field of the first member, in both of its headers."""
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", offset_local), (b"PK\x01\x02", offset_central)):
        start = content.index(signature) + offset
        content[start : start + len(value)] = value
    path.write_bytes(content)


def test_encrypted_members_are_rejected(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "pets.zip", {"cat/1.png": b"one"})
    patched_zip(path, 6, 8, b"\x01\x00")
    assert reasons(read(tmp_path, "archive")) == {"pets.zip/cat/1.png": "encrypted"}


def test_members_with_unknown_compression_are_rejected(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "pets.zip", {"cat/1.png": b"one"})
    patched_zip(path, 8, 10, struct.pack("<H", 77))
    (reason,) = reasons(read(tmp_path, "archive")).values()
    assert reason == "damaged in the archive: That compression method is not supported"


def test_a_damaged_member_is_rejected_and_the_others_are_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        archive.writestr("cat/1.png", b"one" * 100)
        archive.writestr("cat/2.png", b"two" * 100)
    content = (tmp_path / "pets.zip").read_bytes()
    (tmp_path / "pets.zip").write_bytes(content.replace(b"oneone", b"onceon", 1))
    images = read(tmp_path, "archive")
    assert reasons(images) == {"pets.zip/cat/1.png": "damaged in the archive: Bad CRC-32 for file 'cat/1.png'"}
    assert labels(images) == {"pets.zip/cat/2.png": "cat"}


def test_a_damaged_table_of_classes_is_named(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.csv", "file_name,label\n1.png,dog\n")
        archive.writestr("1.png", b"picture")
    path.write_bytes(path.read_bytes().replace(b"1.png,dog", b"1.png,fox", 1))
    with pytest.raises(FoundryError, match=r"set\.zip: metadata\.csv: damaged in the archive"):
        read(tmp_path, "archive")


def test_zip_members_whose_header_claims_a_huge_size_are_not_read(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "pets.zip", {"cat/bomb.png": b"x", "cat/1.png": b"one"})
    patched_zip(path, 22, 24, struct.pack("<I", 0xF0000000))
    images = read(tmp_path, "archive")
    assert reasons(images) == {"pets.zip/cat/bomb.png": f"{0xF0000000} bytes, at most {MAX_BYTES} are read"}
    assert labels(images) == {"pets.zip/cat/1.png": "cat"}


def test_zip_members_larger_than_their_header_claims_are_not_read_to_their_end(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "pets.zip", {"cat/bomb.png": bytes(2**24)})
    patched_zip(path, 22, 24, struct.pack("<I", 100))
    (image,) = read(tmp_path, "archive")
    assert image.content is None
    assert str(image.reason).startswith("damaged in the archive: Bad CRC-32")


def test_huge_tar_members_are_not_read(tmp_path: Path) -> None:
    header = special("cat/huge.png", tarfile.REGTYPE)
    header.size = MAX_BYTES + 512
    rest = make_tar(tmp_path / "rest", {"cat/1.png": b"one"}).read_bytes()
    (tmp_path / "rest").unlink()
    with (tmp_path / "pets.tar").open("wb") as file:
        file.write(header.tobuf())
        # A hole in the file: it takes no space on the disk.
        file.seek(header.size, os.SEEK_CUR)
        file.write(rest)
    images = read(tmp_path, "archive")
    assert reasons(images) == {"pets.tar/cat/huge.png": f"{header.size} bytes, at most {MAX_BYTES} are read"}
    assert labels(images) == {"pets.tar/cat/1.png": "cat"}


def test_of_two_members_with_one_name_the_last_counts(tmp_path: Path) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("cat/1.png", b"first")
        archive.writestr("cat/1.png", b"second")
    images = read(tmp_path, "archive")
    assert [(image.content, image.reason) for image in images] == [
        (None, "a later file of the archive has the same name"),
        (b"second", None),
    ]


@pytest.mark.parametrize("name", ["pets.zip", "pets.tar", "pets.tar.gz", "pets.tgz", "pets.tar.bz2", "pets.tar.xz"])
@pytest.mark.parametrize("content", [b"", b"no archive at all"])
def test_files_that_are_no_archives_are_rejected(tmp_path: Path, name: str, content: bytes) -> None:
    write(tmp_path / name, content)
    with pytest.raises(FoundryError, match=f"{name}: (not a readable archive|found no files)"):
        read(tmp_path, "archive")


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
def test_a_truncated_compressed_tar_is_rejected(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).bytes(100_000)
    path = make_tar(tmp_path / f"pets.tar{suffix}", {"cat/1.png": noise, "cat/2.png": noise}, TAR_SUFFIXES[suffix])
    path.write_bytes(path.read_bytes()[:60_000])
    with pytest.raises(FoundryError, match=f"pets.tar{suffix}: not a readable archive"):
        read(tmp_path, "archive")


def test_more_than_one_archive_is_rejected(tmp_path: Path) -> None:
    make_zip(tmp_path / "a.zip", MEMBERS)
    make_zip(tmp_path / "b.zip", MEMBERS)
    with pytest.raises(FoundryError, match=r"found a\.zip, b\.zip, wanted exactly one file of \.zip"):
        read(tmp_path, "archive")
