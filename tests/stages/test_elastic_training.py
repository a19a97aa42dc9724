"""A training in parts of batches goes on in any number of processes, to the same bytes."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import yaml

from tests.faults.namespaces import needs_two_hosts, on_two_hosts
from tests.servers import wait_until
from tests.stages.trainings import digests, train, wait_for_another_checkpoint


def _in_parts(folder: Path) -> None:
    """Change params.yaml: batches of 32 images in parts of 10."""
    document = yaml.safe_load((folder / "params.yaml").read_text())
    document["train"]["micro_batch_size"] = 10
    document["train"]["network"]["dropout"] = 0.1
    (folder / "params.yaml").write_text(yaml.safe_dump(document))


@pytest.mark.long
def test_a_training_killed_in_two_processes_and_then_in_one_ends_in_three_as_it_does_in_one(
    fresh: Path, root: Path
) -> None:
    _in_parts(fresh)
    whole = train(root, fresh, "whole", NPROC="1")
    _, errors = whole.communicate()
    assert whole.returncode == 0, errors
    shutil.rmtree(fresh / ".foundry" / "training")

    for number in ("2", "1"):
        killed = train(root, fresh, "out", interval_sec=0.0, NPROC=number)
        wait_for_another_checkpoint(fresh, killed)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
    last = train(root, fresh, "out", NPROC="3")
    _, errors = last.communicate()
    assert last.returncode == 0, errors
    assert "resuming after" in errors
    assert digests(fresh / "out") == digests(fresh / "whole")


@pytest.mark.long
@needs_two_hosts
def test_torchrun_on_two_hosts_replaces_a_killed_process_and_ends_with_the_same_bytes(fresh: Path, root: Path) -> None:
    _in_parts(fresh)
    whole = train(root, fresh, "whole", NPROC="1")
    _, errors = whole.communicate()
    assert whole.returncode == 0, errors
    shutil.rmtree(fresh / ".foundry" / "training")

    with _torchrun(root, fresh) as hosts:
        # torchrun takes a while to start.
        wait_until(lambda: bool(list((fresh / ".foundry").glob("training/*/[0-9]*.safetensors"))), timeout_sec=400)
        (follower,) = [each for each in psutil.Process(hosts.pid).children(recursive=True) if _rank(each) == "1"]
        follower.kill()
        _, errors = hosts.communicate()
    assert hosts.returncode == 0, errors
    assert "resuming after" in errors
    assert digests(fresh / "out") == digests(fresh / "whole")


@contextmanager
def _torchrun(root: Path, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """torchrun with one process on each of two hosts."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
    meeting = "--nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint 10.77.0.1:29400 --rdzv-id training"
    training = "--prepared data/prepared --schedule data/schedule --out out --checkpoint-interval-sec 0.2"
    command = (
        f"exec {sys.executable} -m torch.distributed.run {meeting} --rdzv-conf is_host=$HOST --local-addr $ADDRESS "
        f"--max-restarts 3 -m pipeline.train {training}"
    )
    process = subprocess.Popen(
        [*on_two_hosts(), "sh", "-c", command],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _rank(process: psutil.Process) -> str | None:
    """Of a process of the training; None of torchrun's own and of others."""
    try:
        return process.environ().get("RANK")
    except psutil.Error:
        return None
