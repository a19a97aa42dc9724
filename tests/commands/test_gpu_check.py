"""The checks themselves, on the device that this machine has."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.commands.gpu_check import checks, main
from pipeline.device import best_device


@pytest.mark.trains
def test_every_check_passes_on_this_device_and_on_a_cpu_they_are_exact(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    device = best_device()
    (_, loss_ratio, _), *others = checks(replace(device, compile=False), num_steps=30, num_samples=2, sampling_steps=4)
    assert 0 < loss_ratio < 0.9, "the training learns"
    assert all(value <= limit for _, value, limit in others)
    if device.device.type == "cpu":
        assert [value for _, value, _ in others] == [0.0, 0.0, 0.0]


def test_without_a_cuda_device_the_command_says_that_it_checked_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    main()
    assert capsys.readouterr().out == "no CUDA device: nothing was checked\n"
