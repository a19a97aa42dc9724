import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from pipeline.artefacts.schedule_table import ScheduleTable
from pipeline.artefacts.subset import Subset, images_for_levels
from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.density import uniform_density
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.inference.losses import NUM_LEVELS, level_figures, likelihood, loss_per_noise_level
from tests.fakes import NormalDenoiser
from tests.small_sets import split_of

MEAN, STD = 0.1, 0.3
CPU = torch.device("cpu")


def _table(betas: torch.Tensor) -> ScheduleTable:
    schedule = NoiseSchedule(betas)
    # For pixels that are independent normal numbers the best denoiser is linear: 1 / mse = 1 / std^2 + SNR.
    return ScheduleTable(schedule, uniform_density(schedule), {}, 1 / (1 / STD**2 + schedule.snr))


def _normal_images(count: int) -> NDArray[np.uint8]:
    x0 = MEAN + STD * np.random.default_rng(0).standard_normal((count, 8, 8, 1))
    return np.clip(np.round((x0 + 1) * 255 / 2), 0, 255).astype(np.uint8)


TABLE = _table(cosine_betas(200))
BEST = NormalDenoiser(TABLE.schedule, MEAN, STD)
IMAGES = Subset(split_of(_normal_images(150)), np.arange(150))


def test_the_best_denoiser_has_the_loss_that_theory_gives_it() -> None:
    levels = loss_per_noise_level(BEST, IMAGES, TABLE, num_levels=24, seed=0, device=CPU)
    assert len(levels) == NUM_LEVELS
    assert levels["t"].iloc[0] == 0
    assert levels["t"].iloc[-1] == 199
    assert levels["t"].is_monotonic_increasing
    # 9,600 squared normal numbers: their mean is known to sqrt(2 / 9600) = 1.4 %.
    assert np.allclose(levels["held_out_mse"], levels["linear_denoiser_mse"], rtol=0.05)
    assert level_figures(levels)["mse_over_linear"] == pytest.approx(1, abs=0.03)


def test_a_worse_denoiser_is_above_the_linear_one_at_every_level() -> None:
    worse = NormalDenoiser(TABLE.schedule, MEAN + 0.5, STD)
    figures = level_figures(loss_per_noise_level(worse, IMAGES, TABLE, num_levels=24, seed=0, device=CPU))
    assert figures["mse_over_linear"] > 1.1
    assert figures["levels_better_than_linear"] < 0.5


def test_levels_of_nearly_pure_noise_do_not_tell_a_model_from_the_linear_denoiser() -> None:
    linear = np.array([0.01, 0.1, 0.5, 0.94, 0.96, 1.0]) * 0.3
    levels = pd.DataFrame({"held_out_mse": linear * [0.5, 0.5, 0.5, 1.1, 1.1, 1.1], "linear_denoiser_mse": linear})
    assert level_figures(levels)["levels_better_than_linear"] == 0.75


@pytest.mark.parametrize("num_held_out", [1, 2, 20, 300])
def test_images_for_levels_leave_others_for_the_bound(num_held_out: int) -> None:
    images = images_for_levels(split_of(_normal_images(num_held_out)))
    assert 0 < len(images) <= max(1, num_held_out // 2)


def test_the_batches_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = loss_per_noise_level(BEST, IMAGES, TABLE, num_levels=24, seed=3, device=CPU)
    monkeypatch.setattr("pipeline.inference.losses.BATCH_SIZE", 7)
    assert np.allclose(whole, loss_per_noise_level(BEST, IMAGES, TABLE, num_levels=24, seed=3, device=CPU), rtol=1e-6)


def test_a_level_without_signal_is_left_out() -> None:
    betas = cosine_betas(50).clone()
    betas[-1] = 1
    table = _table(betas)
    levels = loss_per_noise_level(
        NormalDenoiser(table.schedule, MEAN, STD), IMAGES.part(slice(8)), table, num_levels=24, seed=0, device=CPU
    )
    assert levels["t"].iloc[-1] < 49
    assert np.isfinite(levels.to_numpy()).all()


def test_few_noise_levels_are_all_there() -> None:
    table = _table(cosine_betas(3))
    levels = loss_per_noise_level(
        NormalDenoiser(table.schedule, MEAN, STD), IMAGES, table, num_levels=24, seed=0, device=CPU
    )
    assert levels["t"].tolist() == [0, 1, 2]


def test_the_bound_of_the_best_denoiser_is_what_theory_gives() -> None:
    std = float(TABLE.linear_denoiser_mse[0].sqrt())
    found = likelihood(BEST, IMAGES, TABLE.schedule, decoder_std=std, seed=0, device=CPU)
    # sum_t 0.5 (SNR_{t-1} - SNR_t) mse_t, Kingma et al. 2021, eq. 13
    diffusion = float((-0.5 * TABLE.schedule.snr.diff() * TABLE.linear_denoiser_mse[1:]).sum()) / np.log(2)
    assert found["bits_per_dim_diffusion"] == pytest.approx(diffusion, rel=0.02)
    # The code length of a normal number of that std, rounded to bytes.
    decoder = 0.5 * np.log2(2 * np.pi * np.e * std**2) + np.log2(255 / 2)
    assert found["bits_per_dim_decoder"] == pytest.approx(decoder, abs=0.05)
    terms = [found[f"bits_per_dim_{term}"] for term in ("prior", "diffusion", "decoder")]
    assert sum(terms) == pytest.approx(found["bits_per_dim"])
    assert 0 < found["bits_per_dim_standard_error"] < 0.1


def test_classes_reach_the_denoiser() -> None:
    seen = []

    def denoiser(x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        assert labels is not None
        seen.append(labels)
        return BEST(x, t, None)

    images = Subset(split_of(_normal_images(5), np.arange(5)), np.array([4, 2]))
    loss_per_noise_level(denoiser, images, TABLE, num_levels=24, seed=0, device=CPU)
    assert all(labels.tolist() == [4, 2] for labels in seen)
