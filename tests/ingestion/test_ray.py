"""A real Ray on loopback does the work of the pool of processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from pipeline.errors import FoundryError
from pipeline.ingestion.sources import folder
from pipeline.ingestion.workers import in_order
from pipeline.prepare import prepare
from tests.ingestion.test_shards import Make, files, write_tar

# The last one keeps Ray from taking this machine's address in the network for 127.0.0.1; it is read at import.
LOCAL = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, psutil.Process]]:
    """Address and first process of a cluster of two cores."""
    address = f"127.0.0.1:{free_port()}"
    # Not below pytest's folder: the path of a socket has at most 107 letters.
    with TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as place:
        command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1"]
        options = ["--include-dashboard=false", "--disable-usage-stats", "--num-cpus=2", "--num-gpus=0"]
        memory = ["--object-store-memory=100000000", f"--temp-dir={place}", f"--port={address.split(':')[1]}"]
        head = psutil.Popen([*command, *options, *memory], env=os.environ | LOCAL, stdout=subprocess.PIPE, text=True)
        try:
            assert any("Ray runtime started" in line for line in head.stdout)
            yield address, head
        finally:
            started = [head, *head.children(recursive=True)]
            head.terminate()
            head.stdout.close()
            _, left = psutil.wait_procs(started, timeout=30)
            for process in left:
                process.kill()


@pytest.fixture
def ray_address(cluster: tuple[str, psutil.Process], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RAY_ADDRESS", cluster[0])
    for name, value in LOCAL.items():
        monkeypatch.setenv(name, value)
    return cluster[0]


@pytest.mark.long
@pytest.mark.usefixtures("ray_address")
def test_ray_makes_the_bytes_of_one_process(
    cluster: tuple[str, psutil.Process], photo_folder: Path, prepare_params: Make, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(folder, "FILES_PER_SHARD", 4)
    (photo_folder / "china" / "broken.png").write_bytes(b"no picture")
    prepare(photo_folder, tmp_path / "by Ray", prepare_params(), examined=tmp_path / "examined by Ray")
    listening = {
        each.laddr.ip
        for process in (cluster[1], *cluster[1].children(recursive=True))
        for each in process.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN
    }
    monkeypatch.delenv("RAY_ADDRESS")
    prepare(photo_folder, tmp_path / "by one", prepare_params(), examined=tmp_path / "examined by one")
    assert files(tmp_path / "by Ray") == files(tmp_path / "by one")
    assert files(tmp_path / "examined by Ray").keys() == files(tmp_path / "examined by one").keys()
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert listening


@pytest.mark.long
@pytest.mark.usefixtures("ray_address")
def test_a_damaged_shard_is_named_as_without_ray(tmp_path: Path, prepare_params: Make) -> None:
    (tmp_path / "raw").mkdir()
    for number in range(2):
        write_tar(tmp_path / "raw" / f"{number}.tar", range(10))
    (tmp_path / "raw" / "1.tar").write_bytes(b"no archive")
    with pytest.raises(FoundryError, match=r"^\S*1\.tar: not a readable archive: ") as raised:
        prepare(tmp_path / "raw", tmp_path / "out", prepare_params(source="archive"))
    assert "Traceback" not in str(raised.value)


@pytest.mark.long
@pytest.mark.usefixtures("ray_address")
def test_a_worker_of_ray_that_dies_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(FoundryError, match="RAY_ADDRESS=127.0.0.1:.*run it again: finished shards are kept"):
        list(in_order(os._exit, [1, 1], 2))


def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    with pytest.raises(FoundryError, match="RAY_ADDRESS=127.0.0.1:.*: no cluster of Ray answers: Connection refused"):
        list(in_order(abs, [-1, 1], 2))


def test_an_address_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(FoundryError, match=r"RAY_ADDRESS: should be host:port of a cluster \(got 'auto'\)"):
        list(in_order(abs, [-1, 1], 2))
