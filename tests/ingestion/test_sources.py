"""Every kind of raw data, as people make it and as someone hostile would."""

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
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import FoundryError
from pipeline.ingestion.sources import RawImage, RawSet, read_raw
from pipeline.ingestion.sources.raw import MAX_BYTES

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]


def read(folder: Path, kind: Any, *, labelled: bool = True, num_classes: int | None = None) -> list[RawImage]:
    found = read_raw(folder, kind, labelled=labelled, num_classes=num_classes)
    assert isinstance(found, RawSet)
    images = list(found.images)
    assert len(images) == found.num_images
    return images


def reasons(images: list[RawImage]) -> dict[str, str]:
    return {image.file: image.reason for image in images if image.reason}


def labels(images: list[RawImage]) -> dict[str, int | str | None]:
    return {image.file: image.label for image in images if not image.reason}


# --- IDX ---------------------------------------------------------------------------------------------------------


def idx(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def idx_folder(tmp_path: Path, digits: Digits) -> Path:
    images, numbers = digits
    for prefix, chosen in (("train", slice(20)), ("t10k", slice(20, 25))):
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images[chosen]))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(numbers[chosen].astype(np.uint8)))
    return tmp_path


def test_idx_files_give_pixels_labels_and_their_own_split(idx_folder: Path, digits: Digits) -> None:
    images = read(idx_folder, "idx")
    held_out = [image for image in images if image.split == "held_out"]
    train = [image for image in images if image.split == "train"]
    assert (len(held_out), len(train)) == (5, 20)
    np.testing.assert_array_equal(np.stack([np.asarray(image.content) for image in train]), digits[0][:20])
    assert [image.label for image in held_out] == digits[1][20:25].tolist()
    assert {(image.file, image.position) for image in held_out} == {("t10k-images-idx3-ubyte", i) for i in range(5)}


def test_idx_labels_are_not_looked_for_where_there_are_none(idx_folder: Path) -> None:
    for path in idx_folder.glob("*labels*"):
        path.unlink()
    assert {image.label for image in read(idx_folder, "idx", labelled=False)} == {None}


@pytest.mark.parametrize(("name", "content", "message"), [
    ("train-images-idx3-ubyte", None, "not found"),
    ("train-images-idx3-ubyte", b"", "begins with nothing, wanted a header 00000803"),
    ("train-images-idx3-ubyte", b"\x1f\x8b\x08\x00" + bytes(20), "begins with 1f8b0800, wanted"),
    ("train-images-idx3-ubyte", idx(np.zeros((2, 3, 3), np.uint8))[:-1], "33 bytes, wanted 34 for 2 x 3 x 3"),
    ("train-images-idx3-ubyte", idx(np.zeros((2, 3, 3), np.uint8)) + b"x", "35 bytes, wanted 34"),
    ("train-images-idx3-ubyte", struct.pack(">4I", 0x803, 2**31, 2**31, 2**31), "16 bytes, wanted 99035203142830"),
    ("train-images-idx3-ubyte", idx(np.zeros((0, 3, 3), np.uint8)), "found 0 x 3 x 3, wanted one or more images"),
    ("train-labels-idx1-ubyte", None, "not found"),
    ("train-labels-idx1-ubyte", idx(np.zeros(19, np.uint8)), "19 labels for 20 images"),
    ("train-labels-idx1-ubyte", idx(np.full(20, 10, np.uint8)), r"labels 10 … 10, wanted 0 … 9 \(prepare.class_names"),
])  # fmt: skip
def test_idx_files_that_do_not_fit_are_named(idx_folder: Path, name: str, content: bytes | None, message: str) -> None:
    (idx_folder / name).unlink()
    if content is not None:
        (idx_folder / name).write_bytes(content)
    with pytest.raises(FoundryError, match=f"{name}: .*{message}"):
        read(idx_folder, "idx", num_classes=10)


def test_compressed_idx_files_are_recognised(idx_folder: Path) -> None:
    path = idx_folder / "train-images-idx3-ubyte"
    path.rename(path.with_suffix(".gz"))
    with pytest.raises(FoundryError, match=r"decompress train-images-idx3-ubyte\.gz"):
        read(idx_folder, "idx")


# --- Arrays ------------------------------------------------------------------------------------------------------


def save_arrays(folder: Path, form: str, **arrays: NDArray[Any]) -> None:
    if form == "npy":
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
    else:
        (np.savez if form == "npz" else np.savez_compressed)(folder / "digits.npz", **arrays)


@pytest.mark.parametrize("form", ["npy", "npz", "compressed npz"])
def test_arrays_give_pixels_and_labels(tmp_path: Path, digits: Digits, form: str) -> None:
    save_arrays(tmp_path, form, images=digits[0][:9], labels=digits[1][:9].astype(np.int32))
    images = read(tmp_path, "arrays")
    np.testing.assert_array_equal(np.stack([np.asarray(image.content) for image in images]), digits[0][:9])
    assert [image.label for image in images] == digits[1][:9].tolist()
    assert [image.position for image in images] == list(range(9))


@pytest.mark.parametrize("form", ["npy", "npz"])
def test_labels_of_arrays_may_be_left_alone(tmp_path: Path, digits: Digits, form: str) -> None:
    save_arrays(tmp_path, form, images=digits[0][:9], labels=digits[1][:9])
    assert {image.label for image in read(tmp_path, "arrays", labelled=False)} == {None}


@pytest.mark.parametrize("shape", [(2, 5, 4), (2, 5, 4, 1), (2, 5, 4, 3), (2, 5, 4, 4)])
def test_images_of_arrays_may_have_channels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    save_arrays(tmp_path, "npy", images=np.zeros(shape, np.uint8))
    assert {np.asarray(image.content).shape for image in read(tmp_path, "arrays", labelled=False)} == {shape[1:]}


@pytest.mark.parametrize(("images", "message"), [
    (np.zeros((2, 4, 4), np.float32), "float32, wanted uint8"),
    (np.full((2, 4, 4), np.nan), "float64, wanted uint8"),
    (np.zeros((2, 4, 4), np.int64), "int64, wanted uint8"),
    (np.zeros((2, 4, 4), bool), "bool, wanted uint8"),
    (np.zeros((2, 3, 4, 5), np.uint8), r"\[2, 3, 4, 5\], wanted \[n, height, width\]"),
    (np.zeros((2, 4), np.uint8), r"\[2, 4\], wanted"),
    (np.zeros((0, 4, 4), np.uint8), r"\[0, 4, 4\], wanted"),
    (np.zeros((2, 4, 4, 3), np.uint16), r"uint16 \[2, 4, 4, 3\], wanted"),
    (np.asfortranarray(np.zeros((2, 4, 4), np.uint8)), "Fortran order"),
    (np.zeros((2, 4, 4), [("r", np.uint8)]), "wanted uint8"),
])  # fmt: skip
@pytest.mark.parametrize("form", ["npy", "npz"])
def test_arrays_that_are_no_images_are_refused(tmp_path: Path, form: str, images: NDArray[Any], message: str) -> None:
    save_arrays(tmp_path, form, images=images, labels=np.zeros(2, np.int64))
    with pytest.raises(FoundryError, match=message):
        read(tmp_path, "arrays")


@pytest.mark.parametrize(("numbers", "message"), [
    (np.zeros(3, np.int64), "3 labels for 2 images"),
    (np.zeros((2, 1), np.int64), r"int64 \[2, 1\], wanted integers \[n\]"),
    (np.zeros(2), r"float64 \[2\], wanted integers"),
    (np.array(["a", "b"]), r"<U1 \[2\], wanted integers"),
    (np.array([-1, 0]), "labels -1 … 0, wanted 0 … 4"),
    (np.array([0, 5]), "labels 0 … 5, wanted 0 … 4"),
])  # fmt: skip
def test_labels_that_are_no_classes_are_refused(tmp_path: Path, numbers: NDArray[Any], message: str) -> None:
    save_arrays(tmp_path, "npz", images=np.zeros((2, 4, 4), np.uint8), labels=numbers)
    with pytest.raises(FoundryError, match=message):
        read(tmp_path, "arrays", num_classes=5)


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["npy", "npz"])
def test_nothing_is_unpickled(tmp_path: Path, form: str) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    save_arrays(raw, form, images=np.array([Trap(tmp_path / "sprung")], dtype=object))
    with pytest.raises(FoundryError, match=r"pickled objects|wanted uint8"):
        read(raw, "arrays", labelled=False)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("form", ["npy", "npz", "compressed npz"])
def test_arrays_that_end_too_early_are_refused(tmp_path: Path, digits: Digits, form: str) -> None:
    save_arrays(tmp_path, form, images=digits[0][:300])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(FoundryError, match=f"{path.name}: (ends within image|not an .npz file)"):
        read(tmp_path, "arrays", labelled=False)


def test_a_damaged_npz_is_refused(tmp_path: Path, digits: Digits) -> None:
    save_arrays(tmp_path, "compressed npz", images=digits[0][:300])
    content = bytearray((tmp_path / "digits.npz").read_bytes())
    content[3000:3100] = bytes(100)
    (tmp_path / "digits.npz").write_bytes(content)
    with pytest.raises(FoundryError, match=r"digits\.npz: (damaged at image|ends within)"):
        read(tmp_path, "arrays", labelled=False)


@pytest.mark.parametrize("content", [b"", b"text", b"\x93NUMPY", b"\x93NUMPY\x01\x00\x08\x00garbage\n"])
def test_files_that_are_no_arrays_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "images.npy").write_bytes(content)
    with pytest.raises(FoundryError, match=r"images\.npy: not a readable array"):
        read(tmp_path, "arrays", labelled=False)


def test_folders_without_the_arrays_are_refused_with_what_they_hold(tmp_path: Path) -> None:
    with pytest.raises(FoundryError, match=r"found nothing, wanted one \.npz file or images\.npy and labels\.npy"):
        read(tmp_path, "arrays")
    save_arrays(tmp_path, "npz", pictures=np.zeros((1, 2, 2), np.uint8))
    with pytest.raises(FoundryError, match=r"found pictures\.npy, wanted also images\.npy"):
        read(tmp_path, "arrays", labelled=False)
    (tmp_path / "second.npz").write_bytes(b"")
    with pytest.raises(FoundryError, match=r"found digits\.npz, second\.npz, wanted one"):
        read(tmp_path, "arrays")


# --- Folders -----------------------------------------------------------------------------------------------------


def write(path: Path, content: bytes = b"picture") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_the_first_sub_folder_is_the_class(tmp_path: Path) -> None:
    for name in ("dog/2.png", "cat/1.png", "cat/kittens/a b.png", "Zebra/ä.png"):
        write(tmp_path / name)
    images = read(tmp_path, "images")
    assert [image.file for image in images] == ["Zebra/ä.png", "cat/1.png", "cat/kittens/a b.png", "dog/2.png"]
    assert [image.label for image in images] == ["Zebra", "cat", "cat", "dog"]
    assert {image.content for image in images} == {b"picture"}


def test_one_folder_around_the_class_folders_is_looked_through(tmp_path: Path) -> None:
    for name in ("photos/dog/2.png", "photos/cat/1.png", "readme.txt"):
        write(tmp_path / name)
    images = read(tmp_path, "images")
    assert labels(images) == {"photos/cat/1.png": "cat", "photos/dog/2.png": "dog"}
    assert reasons(images) == {"readme.txt": "in no class folder"}


def test_a_single_class_is_a_class(tmp_path: Path) -> None:
    write(tmp_path / "cat/1.png")
    assert labels(read(tmp_path, "images")) == {"cat/1.png": "cat"}


def test_files_in_no_class_folder_are_handed_on_with_the_reason(tmp_path: Path) -> None:
    for name in ("1.png", "cat/1.png", "dog/1.png"):
        write(tmp_path / name)
    assert reasons(read(tmp_path, "images")) == {"1.png": "in no class folder"}


def test_without_classes_images_lie_at_any_depth(tmp_path: Path) -> None:
    for name in ("1.png", "a/2.png", "a/b/c/3.png"):
        write(tmp_path / name)
    assert labels(read(tmp_path, "images", labelled=False)) == {"1.png": None, "a/2.png": None, "a/b/c/3.png": None}


def test_hidden_files_and_what_systems_leave_are_no_part_of_the_data(tmp_path: Path) -> None:
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
        "cat/out.png": "a link out of the folder",
        "cat/relative.png": "a link out of the folder",
        "cat/nowhere.png": "a broken link",
        "cat/loop.png": "a broken link",
        "dog": "a link out of the folder",
    }
    assert labels(images) == {"cat/1.png": "cat", "cat/inside.png": "cat"}
    assert not any(image.content == b"secret" for image in images)


def test_links_to_folders_are_not_walked(tmp_path: Path) -> None:
    write(tmp_path / "cat/1.png")
    (tmp_path / "cat/again").symlink_to(tmp_path / "cat")
    assert reasons(read(tmp_path, "images")) == {"cat/again": "a link to a folder"}


def test_a_raw_folder_that_is_a_link_itself_is_read(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/cat/1.png")
    (tmp_path / "raw").symlink_to(tmp_path / "elsewhere")
    assert labels(read(tmp_path / "raw", "images")) == {"cat/1.png": "cat"}


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("kind", ["idx", "images", "archive", "arrays"])
def test_a_folder_that_is_not_there_is_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(FoundryError, match=rf"raw: not a folder, wanted one with raw data of the kind `{kind}`"):
        read(tmp_path / "raw", kind)


@pytest.mark.parametrize("kind", ["images", "archive"])
def test_a_folder_without_files_is_refused(tmp_path: Path, kind: str) -> None:
    write(tmp_path / ".gitignore")
    with pytest.raises(FoundryError, match="found no"):
        read(tmp_path, kind)


# --- Archives ----------------------------------------------------------------------------------------------------

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


def test_what_systems_leave_in_archives_is_no_part_of_the_data(tmp_path: Path) -> None:
    junk = {"__MACOSX/cat/._1.png": b"", "cat/.DS_Store": b"", "cat/": b"", "./.gitignore": b""}
    make_zip(tmp_path / "pets.zip", {**junk, "cat/1.png": b"one"})
    assert [image.file for image in read(tmp_path, "archive")] == ["pets.zip/cat/1.png"]


@pytest.mark.parametrize("pack", [make_zip, make_tar])
def test_members_that_lead_out_of_the_archive_are_refused_and_nothing_is_written(
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
    assert sorted(tmp_path.rglob("*")) == before


def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path) -> None:
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


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
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


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "pets.zip", {"cat/1.png": b"one"})
    patched_zip(path, 6, 8, b"\x01\x00")
    assert reasons(read(tmp_path, "archive")) == {"pets.zip/cat/1.png": "encrypted"}


def test_unknown_compression_is_a_reason(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "pets.zip", {"cat/1.png": b"one"})
    patched_zip(path, 8, 10, struct.pack("<H", 77))
    (reason,) = reasons(read(tmp_path, "archive")).values()
    assert reason == "damaged in the archive: That compression method is not supported"


def test_members_that_are_damaged_are_refused_one_by_one(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        archive.writestr("cat/1.png", b"one" * 100)
        archive.writestr("cat/2.png", b"two" * 100)
    content = (tmp_path / "pets.zip").read_bytes()
    (tmp_path / "pets.zip").write_bytes(content.replace(b"oneone", b"onceon", 1))
    images = read(tmp_path, "archive")
    assert reasons(images) == {"pets.zip/cat/1.png": "damaged in the archive: Bad CRC-32 for file 'cat/1.png'"}
    assert labels(images) == {"pets.zip/cat/2.png": "cat"}


def test_zip_members_that_say_they_are_huge_are_not_read(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "pets.zip", {"cat/bomb.png": b"x", "cat/1.png": b"one"})
    patched_zip(path, 22, 24, struct.pack("<I", 0xF0000000))
    images = read(tmp_path, "archive")
    assert reasons(images) == {"pets.zip/cat/bomb.png": f"{0xF0000000} bytes, at most {MAX_BYTES} are read"}
    assert labels(images) == {"pets.zip/cat/1.png": "cat"}


def test_zip_members_that_are_larger_than_they_say_are_not_read_to_their_end(tmp_path: Path) -> None:
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
        # A hole: this file is large in name only.
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
def test_files_that_are_no_archives_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    write(tmp_path / name, content)
    with pytest.raises(FoundryError, match=f"{name}: (not a readable archive|found no files)"):
        read(tmp_path, "archive")


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
def test_a_compressed_tar_that_is_cut_off_is_refused(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).bytes(100_000)
    path = make_tar(tmp_path / f"pets.tar{suffix}", {"cat/1.png": noise, "cat/2.png": noise}, TAR_SUFFIXES[suffix])
    path.write_bytes(path.read_bytes()[:60_000])
    with pytest.raises(FoundryError, match=f"pets.tar{suffix}: not a readable archive"):
        read(tmp_path, "archive")


def test_exactly_one_archive_is_wanted(tmp_path: Path) -> None:
    make_zip(tmp_path / "a.zip", MEMBERS)
    make_zip(tmp_path / "b.zip", MEMBERS)
    with pytest.raises(FoundryError, match=r"found a\.zip, b\.zip, wanted exactly one file of \.zip"):
        read(tmp_path, "archive")
