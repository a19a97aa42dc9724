"""Losses of a model on held-out images: squared error per noise level, and a bound on bits per dimension."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.artefacts.model import Model
from pipeline.artefacts.schedule_table import ScheduleTable
from pipeline.artefacts.subset import Subset, images_for_levels
from pipeline.device import best_device
from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.images import to_unit_range
from pipeline.diffusion.likelihood import bits_per_dim
from pipeline.diffusion.noise import NoiseSchedule, add_noise
from pipeline.diffusion.seeds import image_generator, image_seed, normal_rows
from pipeline.diffusion.timetables import timetable
from pipeline.inference.cores import denoiser_here, on_all_cores
from pipeline.progress import progress_bar

NUM_LEVELS = 24
LEAST_EXPLAINED = 0.05
"""Share of the images' variance that the best linear denoiser explains at a level that counts. At noisier ones hardly more than
the mean image can be known, and whether an error is 3 % above the linear one's says nothing about the images that are drawn
(DECISIONS.md)."""
NUM_T_PER_IMAGE = 8
"""Noise levels at which each image is denoised for the bound."""
BATCH_SIZE = 32

Batch = TypeVar("Batch")


@dataclass(frozen=True, eq=False, slots=True)
class Losses:
    """Result of `held_out_losses`."""

    levels: pd.DataFrame
    """`t`, `log_snr`, `held_out_mse` and `linear_denoiser_mse`, t rising."""
    figures: dict[str, float]
    """Figures by their names in metrics.json."""


def held_out_losses(
    model: Model, held_out: Subset, training: Subset, schedule_table: ScheduleTable, *, num_images: int, seed: int
) -> Losses:
    """Measure squared errors by noise level and bits per dimension, on different held-out images.

    Args:
        model: moved to the machine's best device.
        held_out: `images_for_levels` of its split are used for the noise levels, the others for the bound.
        training: images that the model was trained on; as many of them are measured at the same levels, to detect
            over-fitting.
        schedule_table: the model's noise schedule, and the errors of the best linear denoiser.
        num_images: largest number of images for the bound.
        seed: of the noise.
    """
    device = best_device().device
    denoiser = denoiser_here(model)
    for_levels = images_for_levels(held_out.split)
    levels, training_levels = (
        loss_per_noise_level(denoiser, images, schedule_table, num_levels=NUM_LEVELS, seed=seed, device=device)
        for images in (for_levels, training.part(slice(len(for_levels))))
    )
    others = held_out.part(~np.isin(held_out.rows, for_levels.rows)).part(slice(num_images))
    # The tightest decoder has the standard deviation of the error at t = 0, measured here on other images.
    decoder_std = math.sqrt(levels["held_out_mse"].iloc[0])
    return Losses(
        levels,
        level_figures(levels)
        | {"mse_over_training": geometric_mean(levels["held_out_mse"] / training_levels["held_out_mse"])}
        | likelihood(denoiser, others, schedule_table.schedule, decoder_std=decoder_std, seed=seed, device=device),
    )


def loss_per_noise_level(
    denoiser: Denoiser,
    images: Subset,
    schedule_table: ScheduleTable,
    *,
    num_levels: int,
    seed: int,
    device: torch.device,
) -> pd.DataFrame:
    """Mean squared error of x0, per dimension, at levels equally spaced in log-SNR, t rising.

    All levels use the same images and the same noise, so that the curve is smooth. A level without signal (zero
    terminal SNR) is omitted.
    """
    levels = noise_levels(schedule_table.schedule, num_levels)
    errors = squared_errors(denoiser, images, schedule_table.schedule, levels, seed=seed, device=device)
    return level_table(errors, schedule_table, levels)


def level_table(
    errors: Float[np.ndarray, "levels images"], schedule_table: ScheduleTable, levels: Sequence[int]
) -> pd.DataFrame:
    """The mean over images of `squared_errors`, beside the error of the best linear denoiser."""
    return pd.DataFrame(
        {
            "t": levels,
            "log_snr": schedule_table.schedule.log_snr[levels].numpy(),
            "held_out_mse": errors.mean(axis=1),
            "linear_denoiser_mse": schedule_table.linear_denoiser_mse[levels].numpy(),
        }
    )


def squared_errors(
    denoiser: Denoiser,
    images: Subset,
    schedule: NoiseSchedule,
    levels: Sequence[int],
    *,
    seed: int,
    device: torch.device,
) -> Float[np.ndarray, "levels images"]:
    """Squared error of x0, the mean over its dimensions, of each image at each level; float64.

    Each image has noise of its own, the same at all levels.
    """

    def errors(start: int) -> Float[np.ndarray, "levels rows"]:
        x0, labels = _batch(images, start, device)
        eps = _noise(x0, [image_seed(seed, start + row) for row in range(len(x0))])
        rows = [_squared_error(denoiser, x0, labels, eps, t, schedule) for t in levels]
        return torch.stack(rows).double().cpu().numpy()

    starts = range(0, len(images), BATCH_SIZE)
    return np.concatenate(list(_bar(on_all_cores(errors, starts), images, "noise levels")), axis=1)


def level_figures(levels: pd.DataFrame) -> dict[str, float]:
    """Comparison with the error of the best linear denoiser, which a trained model must beat."""
    linear = levels["linear_denoiser_mse"]
    ratio = levels["held_out_mse"] / linear
    # At the noisiest level its error is the images' variance.
    counts = linear <= (1 - LEAST_EXPLAINED) * linear.max()
    return {
        "mse_over_linear": geometric_mean(ratio),
        "levels_better_than_linear": float((ratio[counts] < 1).mean()),
    }


def geometric_mean(ratios: pd.Series) -> float:
    """Geometric mean of positive ratios, one per noise level."""
    return float(np.exp(np.log(ratios).mean()))


def likelihood(
    denoiser: Denoiser,
    images: Subset,
    schedule: NoiseSchedule,
    *,
    decoder_std: float,
    seed: int,
    device: torch.device,
) -> dict[str, float]:
    """The variational bound and its terms, in bits per dimension."""
    starts = range(0, len(images), BATCH_SIZE)
    batches = (_batch(images, start, device) for start in _bar(starts, images, "likelihood"))
    generator = torch.Generator().manual_seed(seed)
    bound = bits_per_dim(denoiser, schedule, batches, NUM_T_PER_IMAGE, generator, decoder_std=decoder_std)
    return {
        "bits_per_dim": bound.total,
        "bits_per_dim_standard_error": bound.standard_error,
        "bits_per_dim_prior": bound.prior,
        "bits_per_dim_diffusion": bound.diffusion,
        "bits_per_dim_decoder": bound.decoder,
    }


def noise_levels(schedule: NoiseSchedule, num_levels: int) -> list[int]:
    """At most `num_levels` levels with some signal, equally spaced in log-SNR, t rising."""
    falling = timetable("log_snr", schedule, min(num_levels, schedule.num_timesteps))
    return [t for t in reversed(falling) if schedule.snr[t] > 0]


def _bar(batches: Iterable[Batch], images: Subset, name: str) -> Iterable[Batch]:
    """The same batches, with a progress bar."""
    return progress_bar(batches, name=name, unit="batches", total=math.ceil(len(images) / BATCH_SIZE))


def _batch(images: Subset, start: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The images from `start` on, and their classes."""
    part = images.part(slice(start, start + BATCH_SIZE))
    x0 = to_unit_range(torch.tensor(part[:], device=device)).permute(0, 3, 1, 2).contiguous()
    return x0, None if part.labels is None else torch.tensor(part.labels, device=device)


def _noise(x0: Tensor, seeds: list[int]) -> Tensor:
    _, channels, height, width = x0.shape
    return normal_rows([image_generator(seed) for seed in seeds], (channels, height, width)).to(x0.device)


@torch.no_grad()
def _squared_error(
    denoiser: Denoiser, x0: Tensor, labels: Tensor | None, eps: Tensor, t: int, schedule: NoiseSchedule
) -> Tensor:
    """Mean over pixels, `[rows]`."""
    times = torch.full((len(x0),), t, device=x0.device)
    denoised = denoiser(add_noise(x0, eps, times, schedule), times, labels)
    return (denoised - x0).square().flatten(1).mean(dim=1)
