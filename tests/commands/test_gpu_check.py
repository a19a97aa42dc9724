"""What the check does on a card, here on the CPU: the first card that it meets should find no slip of ours."""

from pathlib import Path

import pytest

from pipeline.commands import gpu_check

pytestmark = pytest.mark.trains


def test_the_training_of_the_check_learns(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(gpu_check, "NUM_STEPS", 25)
    assert gpu_check._loss_ratio() < 0.9
