from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from pipeline.artefacts.dataset import Dataset, DatasetInfo, Split
from pipeline.artefacts.schedule_table import WEIGHT_COLUMNS, ScheduleTable
from pipeline.diffusion.betas import cosine_betas, rescale_zero_terminal_snr
from pipeline.diffusion.density import uniform_density
from pipeline.diffusion.moments import Moments, image_moments
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.weighting import SnrBounds, loss_weight
from pipeline.reporting.schedule_plots import write_curves, write_curves_csv, write_forward

ZERO_SNR = NoiseSchedule(rescale_zero_terminal_snr(cosine_betas(3)))


def table_of(schedule: NoiseSchedule) -> ScheduleTable:
    weights = {pair: loss_weight(*pair, schedule, SnrBounds(0.1, 5.0)) for pair in WEIGHT_COLUMNS}
    return ScheduleTable(schedule, uniform_density(schedule), weights, torch.ones_like(schedule.beta))


def test_curves_have_no_infinite_numbers_at_zero_terminal_snr(tmp_path: Path) -> None:
    write_curves_csv(tmp_path / "curves.csv", table_of(ZERO_SNR))
    assert "inf" not in (tmp_path / "curves.csv").read_text()
    log_snr = pd.read_csv(tmp_path / "curves.csv")["log_snr"]
    np.testing.assert_allclose(log_snr, [*ZERO_SNR.log_snr[:2], np.nan], rtol=1e-8)


@pytest.mark.parametrize("num_timesteps", [1, 3])
def test_curves_of_zero_snr_and_of_data_without_variance_can_be_drawn(tmp_path: Path, num_timesteps: int) -> None:
    moments: Moments = image_moments([torch.zeros(2, 4, 4, 1, dtype=torch.uint8)])
    schedule = NoiseSchedule(rescale_zero_terminal_snr(cosine_betas(num_timesteps)))
    write_curves(tmp_path / "curves.png", table_of(schedule), moments)
    assert matplotlib.image.imread(tmp_path / "curves.png").shape == (650, 1200, 4)


def test_plots_contain_neither_time_nor_program(tmp_path: Path, digits: tuple[NDArray[np.uint8], object]) -> None:
    colour = np.repeat(digits[0][:3, ..., None], 3, axis=3)
    info = DatasetInfo(image_size=8, channels=3, class_names=None, num_train=3, num_held_out=3, digest="")
    write_forward(tmp_path / "forward.png", Dataset(info, {"train": Split((colour,), None)}), ZERO_SNR)
    content = (tmp_path / "forward.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert not any(chunk in content for chunk in (b"tEXt", b"iTXt", b"zTXt", b"tIME"))
