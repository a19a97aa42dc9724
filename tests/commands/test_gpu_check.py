"""The checks themselves, on the device that this machine has."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.commands.gpu_check import Effort, Row, main, rows
from pipeline.device import best_device

LITTLE = Effort(batch_sizes=(4, 8), timed_steps=2, num_steps=30, side=64, num_samples=2, sampling_steps=4)


@pytest.mark.trains
def test_every_check_passes_on_this_device_and_on_a_cpu_they_are_exact(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    device = replace(best_device(), compile=False)
    found = {row.quantity: row for row in rows(device, LITTLE)}
    learns = found.pop(f"training in {device.precision}, last loss / first loss")
    assert 0 < learns.value < 0.9
    assert all(row.passes for row in found.values())
    assert all(row.value > 0 for row in found.values() if row.most is None)
    if device.device.type == "cpu":
        assert [row.value for row in found.values() if row.most is not None] == [0.0] * 5


def test_a_row_fails_above_its_bound_and_shows_it() -> None:
    assert Row("images/s", 1234.5).passes
    assert str(Row("difference", 0.0, 0)) == "| difference | 0 | at most 0 |  |"
    assert not Row("difference", float("nan"), 0).passes
    assert str(Row("difference", 2e-9, 0)) == "| difference | 2e-09 | at most 0 | FAILED |"


def test_without_a_cuda_device_the_command_says_that_it_checked_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    main()
    assert capsys.readouterr().out == "no CUDA device: nothing was checked\n"
