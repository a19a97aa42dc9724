"""Images are copied into the project without links, and what cannot be copied is named."""

import http.server
import os
import re
import resource
import threading
from functools import partial
from pathlib import Path

import pytest

from pipeline.adoption.intake import model_name, require_space, take_in
from pipeline.artefacts.files import UnwritableError
from pipeline.errors import FoundryError
from pipeline.params import RegisterParams


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    """A folder with links of all kinds, a name that is not UTF-8, a pipe, and files of the operating system."""
    folder = tmp_path / "My cats" / "png"
    (folder / "tabby").mkdir(parents=True)
    (folder / "tabby" / "one.png").write_bytes(b"one")
    (folder / "tabby" / "two.png").symlink_to("one.png")
    (folder / "tabby" / "lost.png").symlink_to("../nowhere.png")
    (folder / "tabby" / "loop").symlink_to("..", target_is_directory=True)
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (outside / "three.png").write_bytes(b"three")
    (folder / "siamese").symlink_to(outside, target_is_directory=True)
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")).write_bytes(b"four")
    os.mkfifo(folder / "pipe")
    (folder / ".DS_Store").write_bytes(b"")
    return folder


def test_links_become_copies_and_the_rest_is_named(messy: Path, tmp_path: Path) -> None:
    intake = take_in(str(messy), tmp_path / "in")
    found = {path.relative_to(intake.folder).as_posix(): path for path in intake.folder.rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == {
        "tabby/one.png": b"one",
        "tabby/two.png": b"one",
        "siamese/three.png": b"three",
        "caf%e9.png": b"four",
    }
    assert not any(path.is_symlink() for path in intake.folder.rglob("*"))
    assert (intake.name, intake.num_links) == ("my-cats", 1)
    assert intake.left_out == (
        "pipe: not a regular file",
        "tabby/loop: a link to a folder that contains it",
        "tabby/lost.png: a dangling link to ../nowhere.png",
    )


def test_files_that_do_not_fit_on_the_disk_twice_are_refused_before_all_are_looked_at(tmp_path: Path) -> None:
    sizes = iter([2**20, 2**50, 2**20])
    with pytest.raises(
        FoundryError, match=r"^birds: its first 2 files have 1,048,576\.0 GiB, for which 2,097,153\.0 GiB must"
    ):
        require_space("birds", sizes, tmp_path / "in")
    assert list(sizes) == [2**20]
    require_space("birds", [2**20], tmp_path / "in")


def test_a_full_disk_is_named_by_the_copy_and_not_by_the_file_that_was_read(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "large.png").write_bytes(bytes(100_000))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(UnwritableError, match=r"/in/large\.png: cannot be written: File too large"):
            take_in(str(tmp_path / "cats"), tmp_path / "in")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_file_that_somebody_writes_to_is_not_taken_half(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    growing = tmp_path / "cats" / "archive.tar"
    growing.write_bytes(bytes(50 * 2**20))
    stop = threading.Event()

    def write() -> None:
        with growing.open("ab", buffering=0) as file:
            while not stop.is_set():
                file.write(b"more")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with pytest.raises(
            FoundryError, match=r"cats/archive\.tar: changes while it is copied; nothing is taken over: give"
        ):
            take_in(str(growing), tmp_path / "in")
    finally:
        stop.set()
        writer.join()


def test_a_file_that_the_disk_does_not_give_is_named(tmp_path: Path) -> None:
    # There is nothing at its beginning, so that reading fails as on a broken disk.
    with pytest.raises(
        FoundryError, match="^/proc/self/mem: cannot be read: Input/output error; nothing is taken over"
    ):
        take_in("/proc/self/mem", tmp_path / "in")


def test_a_single_file_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "birds.tar.gz").write_bytes(b"archive")
    intake = take_in(str(tmp_path / "birds.tar.gz"), tmp_path / "in")
    assert (intake.folder / "birds.tar.gz").read_bytes() == b"archive"
    assert intake.name == "birds"


@pytest.mark.parametrize(("name", "error"), [("nowhere", "not found, wanted a folder"), ("empty", "no file in it")])
def test_a_source_without_files_is_refused(name: str, error: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FoundryError, match=error):
        take_in(str(tmp_path / name), tmp_path / "in")


@pytest.mark.parametrize(("source", "error"), [("", "no source: not found"), (".", "contains this project")])
def test_the_project_is_not_taken_for_images(source: str, error: str, workspace: Path) -> None:
    (workspace / "params.yaml").write_text("{}")
    with pytest.raises(FoundryError, match=error):
        take_in(source, Path(".foundry/adoption/raw"))


def test_an_archive_is_downloaded_from_its_address(tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    (served / "birds.zip").write_bytes(b"archive")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        intake = take_in(f"http://127.0.0.1:{server.server_port}/birds.zip", tmp_path / "in")
        server.shutdown()
    assert (intake.folder / "birds.zip").read_bytes() == b"archive"
    assert intake.name == "birds"


def test_an_address_that_cannot_be_read_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(FoundryError, match="get-url"):
        take_in("http://127.0.0.1:9/birds.zip", tmp_path / "in")


@pytest.mark.parametrize("text", ["png", "64x64", "データ", "-", "Ünïcode (2).zip", "a" * 100, "10_monkeys", ".hidden"])
def test_every_path_has_a_valid_model_name(text: str) -> None:
    pattern = next(each for each in RegisterParams.model_fields["model_name"].metadata if hasattr(each, "pattern"))
    assert re.match(pattern.pattern, model_name(("/", text)))
