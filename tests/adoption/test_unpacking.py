"""An archive is unpacked if it fits on the disk, and names what it leaves out."""

import bz2
import gzip
import lzma
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from pipeline.adoption.unpacking import unpack
from pipeline.errors import FoundryError
from tests.ingestion.sources.test_archive import TAR_SUFFIXES, make_tar, make_zip, patched_zip, special

TERABYTES = 8 * 2**40
COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def bomb(path: Path) -> Path:
    """An archive of some hundred bytes that declares eight terabytes."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("cat/1.png", b"one")
            archive.writestr("cat/bomb.png", b"small")
            archive.infolist()[1].file_size = TERABYTES
        return path
    header = special("cat/bomb.png", tarfile.REGTYPE)
    header.size = TERABYTES
    path.write_bytes(COMPRESS[path.suffix](header.tobuf(tarfile.GNU_FORMAT)))
    return path


@pytest.mark.parametrize("name", ["more.zip", "more.tar.gz", "more.tar.bz2", "more.tar.xz"])
def test_a_bomb_is_refused_by_what_it_declares_before_anything_is_written(name: str, tmp_path: Path) -> None:
    packed = bomb(tmp_path / name)
    assert packed.stat().st_size < 1000
    free = shutil.disk_usage(tmp_path).free / 2**30
    with pytest.raises(
        FoundryError, match=r"^more: its first [12] files have 8,192\.0 GiB, for which 16,385\.0 GiB"
    ) as raised:
        unpack("more", packed, tmp_path / "out")
    assert f"must be free in {tmp_path}" in str(raised.value)
    found = float(str(raised.value).partition("(found ")[2].partition(")")[0].replace(",", ""))
    assert found == pytest.approx(free, abs=5)
    assert not (tmp_path / "out").exists()


def test_no_more_bytes_come_out_than_are_declared(tmp_path: Path) -> None:
    packed = make_zip(tmp_path / "more.zip", {"cat/bomb.png": bytes(2**24), "cat/1.png": b"one"})
    patched_zip(packed, 22, 24, struct.pack("<I", 100))
    assert unpack("more", packed, tmp_path / "out") == (
        "cat/bomb.png: damaged in the archive: Bad CRC-32 for file 'cat/bomb.png'",
    )
    assert [path.name for path in (tmp_path / "out").rglob("*.*")] == ["1.png"]


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz"])
def test_what_is_no_file_or_leads_out_is_left_out_and_named(suffix: str, tmp_path: Path) -> None:
    members = {
        "cat/1.png": b"one",
        "../out.png": b"out",
        "cat/link.png": special("cat/link.png", tarfile.SYMTYPE, "1.png"),
    }
    packed = make_tar(tmp_path / f"more.tar{suffix}", {**members, ".hidden": b""}, TAR_SUFFIXES[suffix])
    assert unpack("more", packed, tmp_path / "out") == (
        "../out.png: its path leads out of the archive",
        "cat/link.png: a link",
    )
    assert [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")] == ["cat/1.png"]


def test_an_archive_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    packed = make_zip(tmp_path / "more.zip", {"../1.png": b"one"})
    with pytest.raises(
        FoundryError, match=r"^more: no file in it can be read, wanted images\n\.\./1\.png: its path leads"
    ):
        unpack("more", packed, tmp_path / "out")
