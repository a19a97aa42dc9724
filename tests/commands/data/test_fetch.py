from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from pipeline.commands.data.fetch import (
    PACKAGE,
    RECORDED_MD5,
    Source,
    SourceError,
    debian_package,
    fetch,
    public_address,
)
from pipeline.errors import FoundryError

CONTENT = {"train-images-idx3-ubyte": b"pictures" * 1000, "train-labels-idx1-ubyte": b"labels"}
FILES = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}


def good(scratch: Path, names: Iterable[str]) -> Path:
    for name in names:
        (scratch / f"{name}.gz").write_bytes(gzip.compress(CONTENT[name]))
    return scratch


def wrong(scratch: Path, names: Iterable[str]) -> Path:
    for name in names:
        (scratch / f"{name}.gz").write_bytes(gzip.compress(b"something else"))
    return scratch


def cut_off(scratch: Path, names: Iterable[str]) -> Path:
    for name in names:
        (scratch / f"{name}.gz").write_bytes(gzip.compress(CONTENT[name])[:-9])
    return scratch


def unavailable(_scratch: Path, _names: Iterable[str]) -> Path:
    raise SourceError("no connection")


def test_files_are_stored_decompressed(tmp_path: Path) -> None:
    fetch(tmp_path / "raw", FILES, {"good": good})
    assert {path.name: path.read_bytes() for path in (tmp_path / "raw").iterdir()} == CONTENT


def test_no_source_is_used_if_all_files_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(tmp_path, FILES, {"good": good})
    fetch(tmp_path, FILES, {"unavailable": unavailable})
    assert "all 2 files exist and have the right SHA-256" in capsys.readouterr().err


def test_images_of_the_users_own_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw.dvc").write_text("outs:\n- md5: 0123.dir\n  path: raw\n")
    fetch(tmp_path / "raw", FILES, {"good": good})
    assert not (tmp_path / "raw").exists()
    assert "records other images than the demo's" in capsys.readouterr().err
    (tmp_path / "raw.dvc").write_text(f"outs:\n- md5: {RECORDED_MD5}\n  path: raw\n")
    fetch(tmp_path / "raw", FILES, {"good": good})
    assert len(list((tmp_path / "raw").iterdir())) == len(FILES)


def test_only_missing_files_are_written(tmp_path: Path) -> None:
    fetch(tmp_path, FILES, {"good": good})
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    before = (tmp_path / "train-images-idx3-ubyte").stat().st_mtime_ns
    fetch(tmp_path, FILES, {"good": good})
    assert (tmp_path / "train-labels-idx1-ubyte").read_bytes() == CONTENT["train-labels-idx1-ubyte"]
    assert (tmp_path / "train-images-idx3-ubyte").stat().st_mtime_ns == before


def test_a_file_with_another_digest_is_kept_and_reported_with_both_digests(tmp_path: Path) -> None:
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(b"other")
    with pytest.raises(FoundryError) as refusal:
        fetch(tmp_path, FILES, {"good": good})
    for part in (str(path), FILES[path.name], hashlib.sha256(b"other").hexdigest()):
        assert part in str(refusal.value)
    assert path.read_bytes() == b"other"
    assert not (tmp_path / "train-images-idx3-ubyte").exists()


@pytest.mark.parametrize("first", [unavailable, wrong, cut_off])
def test_the_next_source_is_tried_when_one_fails(tmp_path: Path, first: Source) -> None:
    fetch(tmp_path, FILES, {"first": first, "good": good})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == CONTENT


def test_when_all_sources_fail_each_reason_is_reported_and_no_file_remains(tmp_path: Path) -> None:
    with pytest.raises(FoundryError, match="no source has Fashion-MNIST") as refusal:
        fetch(tmp_path, FILES, {"quiet": unavailable, "liar": wrong})
    assert "quiet: no connection" in str(refusal.value)
    assert "liar: train-images-idx3-ubyte: SHA-256" in str(refusal.value)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "served"
    folder.mkdir()
    good(folder, FILES)
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


def test_files_are_downloaded_over_http(tmp_path: Path, server: str) -> None:
    fetch(tmp_path / "raw", FILES, {"http": functools.partial(public_address, address=server)})
    assert (tmp_path / "raw/train-images-idx3-ubyte").read_bytes() == CONTENT["train-images-idx3-ubyte"]


def test_a_missing_file_at_the_address_is_a_source_error(tmp_path: Path, server: str) -> None:
    with pytest.raises(SourceError, match="404"):
        public_address(tmp_path, {"t10k-images-idx3-ubyte": ""}, server)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg is not installed")
def test_without_package_lists_apt_updates_private_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here `apt-get` is a script that finds the package only after `update` with a private state folder."""
    tree, tools = tmp_path / "tree", tmp_path / "bin"
    data = tree / "usr/share/datasets/fashion-mnist"
    data.mkdir(parents=True)
    good(data, FILES)
    (tree / "DEBIAN").mkdir()
    control = f"Package: {PACKAGE}\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: d\n"
    (tree / "DEBIAN/control").write_text(control)
    package = tmp_path / f"{PACKAGE}_1_all.deb"
    subprocess.run(["dpkg-deb", "-b", str(tree), str(package)], check=True, capture_output=True)
    tools.mkdir()
    (tools / "apt-get").write_text(
        f"""#!/bin/sh
        for part; do case "$part" in -oDir::State=*) state="${{part#-oDir::State=}}";; esac; done
        case "$*" in
          *update) touch "$state/known";;
          *download*) [ -e "$state/known" ] && cp {package} . || {{ echo 'E: Unable to locate package' >&2; exit 100; }};;
        esac
        """
    )
    (tools / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    fetch(tmp_path / "raw", FILES, {"debian": debian_package})
    assert (tmp_path / "raw/train-labels-idx1-ubyte").read_bytes() == CONTENT["train-labels-idx1-ubyte"]


def test_a_machine_without_apt_is_a_source_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match="apt-get is not installed"):
        debian_package(tmp_path, FILES)
