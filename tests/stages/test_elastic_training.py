"""A training in parts of batches goes on in any number of processes, to the same bytes."""

import shutil
import signal
from pathlib import Path

import pytest
import yaml

from tests.stages.test_train import _digests, _train, _wait_for_another_checkpoint, fresh, project

__all__ = ["fresh", "project"]  # fixtures


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
    whole = _train(root, fresh, "whole", NPROC="1")
    _, errors = whole.communicate(timeout=400)
    assert whole.returncode == 0, errors
    shutil.rmtree(fresh / ".foundry" / "training")

    for number in ("2", "1"):
        killed = _train(root, fresh, "out", interval_sec=0.0, NPROC=number)
        _wait_for_another_checkpoint(fresh, killed)
        killed.send_signal(signal.SIGKILL)
        killed.communicate(timeout=60)
    last = _train(root, fresh, "out", NPROC="3")
    _, errors = last.communicate(timeout=400)
    assert last.returncode == 0, errors
    assert "resuming after" in errors
    assert _digests(fresh / "out") == _digests(fresh / "whole")
