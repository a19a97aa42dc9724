"""Real processes that communicate over this machine's loopback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from pipeline.errors import FoundryError
from pipeline.training.distributed import Workers, num_workers
from tests.processes import start

WORKER = """
import sys, time, torch
from pipeline.training.distributed import launch_workers
from pipeline.errors import FoundryError
with launch_workers(64) as workers:
    mine = {"a": torch.full((2, 3), float(workers.rank)), "n": torch.tensor(7 + workers.rank), "empty": torch.zeros(0)}
    got = workers.broadcast_state(mine if workers.is_first else {}, torch.device("cpu"))
    assert got["a"].tolist() == [[0.0] * 3] * 2 and int(got["n"]) == 7 and got["empty"].numel() == 0
    one, two = torch.full((3, 2), workers.rank + 1.0), torch.tensor(10.0 * workers.rank)
    one = one.t().contiguous().t()
    workers.all_reduce([one, two])
    if workers.is_first:
        print(one.flatten().tolist(), float(two), flush=True)
        if "wait" in sys.argv:
            time.sleep(60)
    else:
        try:
            workers.all_reduce([one])
        except FoundryError:
            pass
"""


def _start(root: Path, tmp_path: Path, size: int, *options: str) -> subprocess.Popen[str]:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    environment = os.environ | {"NPROC": str(size), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, str(script), *options]
    return start(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)


@pytest.mark.parametrize("size", [2, 3])
def test_sums_and_the_state_of_the_first_reach_every_process(root: Path, tmp_path: Path, size: int) -> None:
    process = _start(root, tmp_path, size)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert output.split("\n")[0] == f"{[sum(range(1, size + 1)) * 1.0] * 6} {sum(range(size)) * 10.0}"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_others_end_when_the_first_is_killed(root: Path, tmp_path: Path, number: signal.Signals) -> None:
    process = _start(root, tmp_path, 2, "wait")
    assert process.stdout is not None
    process.stdout.readline()
    others = psutil.Process(process.pid).children()
    assert len(others) == 1
    process.send_signal(number)
    process.communicate()
    while any(other.is_running() and other.status() != psutil.STATUS_ZOMBIE for other in others):
        time.sleep(0.05)


@pytest.mark.parametrize(("size", "rows"), [(1, 5), (2, 64), (3, 64), (4, 2)])
def test_every_row_of_a_batch_belongs_to_exactly_one_process(size: int, rows: int) -> None:
    shares = [list(range(rows))[Workers(rank, size).share(rows)] for rank in range(size)]
    assert [row for share in shares for row in share] == list(range(rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_single_process_communicates_with_nobody() -> None:
    tensor = torch.ones(2)
    Workers().all_reduce([tensor])
    assert tensor.tolist() == [1, 1]
    assert Workers().broadcast_state({"a": tensor}, torch.device("cpu"))["a"] is tensor


@pytest.mark.parametrize("requested", ["0", "-1", "two", "1.5"])
def test_an_invalid_number_of_processes_is_refused(requested: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPROC", requested)
    with pytest.raises(FoundryError, match=r"NPROC: should be a whole number from 1 on"):
        num_workers(64)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("NPROC", "2")
    assert num_workers(64) == 2
    monkeypatch.setenv("NPROC", "3")
    with pytest.raises(FoundryError, match=r"NPROC: each process needs a GPU of its own: there are 2 \(got 3\)"):
        num_workers(64)


def test_a_small_batch_is_not_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NPROC", raising=False)
    assert num_workers(31) == 1
    monkeypatch.setenv("NPROC", "3")
    assert num_workers(31) == 3
