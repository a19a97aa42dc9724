"""Plots of the noise schedule and of the forward process; the same input gives the same bytes."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.artefacts.dataset import Dataset, Split
from pipeline.artefacts.files import replacing
from pipeline.artefacts.schedule_table import ScheduleTable
from pipeline.diffusion.images import to_bytes, to_unit_range
from pipeline.diffusion.moments import Moments
from pipeline.diffusion.noise import NoiseSchedule, add_noise
from pipeline.diffusion.seeds import image_generator, normal_rows
from pipeline.diffusion.weighting import WEIGHTINGS

CURVES = ["t", "beta", "abar", "sqrt_abar", "sqrt_one_minus_abar", "log_snr", "posterior_variance", "density"]
CURVES += ["linear_denoiser_mse"]

NUM_SHOWN = 6
"""Images shown in the forward process, of different classes if there are classes."""

NUM_LEVELS = 8
"""Noise levels shown in the forward process."""

GAP = 2
"""Pixels between images."""

SMALLEST_SHOWN = 1e-8
"""Lower end of logarithmic axes."""


def write_curves_csv(path: Path, table: ScheduleTable) -> None:
    """Write columns of the table for `dvc plots`; infinite values are left empty, because JSON has no infinity."""
    frame = table.frame()[CURVES].replace(float("-inf"), None)
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")


def write_curves(path: Path, table: ScheduleTable, moments: Moments) -> None:
    """Plot the schedule, the loss weights, the density of t and the spectrum of the data."""
    schedule, t = table.schedule, np.arange(table.schedule.num_timesteps)
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    signal, snr, error, weights, density, spectrum = figure.subplots(2, 3).flat
    _plot(signal, t, {"√abar": schedule.abar.sqrt(), "√(1 - abar)": schedule.one_minus_abar.sqrt()})
    _plot(snr, t, {"log SNR": torch.where(schedule.log_snr.isinf(), torch.nan, schedule.log_snr)})
    _plot(error, t, {"squared error of x0, best linear denoiser": table.linear_denoiser_mse.clamp(min=SMALLEST_SHOWN)})
    _plot(weights, t, {f"weight of v, {name}": _relative(table.weight("v", name)) for name in WEIGHTINGS})
    _plot(density, t, {"density in training x T": table.density * len(t)})
    rank = 1 + np.arange(len(moments.eigenvalues))
    _plot(spectrum, rank, {"variance along an axis of the data": moments.eigenvalues.clamp(min=SMALLEST_SHOWN)})
    for axes in (error, weights, spectrum):
        axes.set_yscale("log")
    spectrum.set(xscale="log", xlabel="axis")
    _save(path, figure)


def write_forward(path: Path, dataset: Dataset, schedule: NoiseSchedule) -> None:
    """Show training images of several classes with increasing noise, one row per image, with one noise per row."""
    shown = _choose(dataset.split("train"))
    images, names = dataset.split("train").images(shown), _names(dataset, shown)
    levels = np.linspace(0, schedule.num_timesteps - 1, min(NUM_LEVELS, schedule.num_timesteps)).round().astype(int)
    x0 = to_unit_range(torch.from_numpy(images)).permute(0, 3, 1, 2)
    eps = normal_rows([image_generator(row) for row in range(len(x0))], (x0.shape[1], x0.shape[2], x0.shape[3]))
    noisy = [add_noise(x0, eps, torch.full((len(x0),), int(level)), schedule) for level in levels]
    columns = torch.stack([x0, *noisy], dim=1)
    rows, num_columns, size = len(x0), columns.shape[1], x0.shape[2]

    figure = Figure(figsize=(1.3 * num_columns + 1.5, 1.3 * rows + 0.8), layout="constrained")
    axes = figure.subplots()
    axes.imshow(_arrange(to_bytes(columns).numpy()), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    centres = (size - 1) / 2 + (size + GAP) * np.arange(max(rows, num_columns))
    titles = ["image"] + [f"t = {level}\nSNR {schedule.snr[level]:.2g}" for level in levels]
    axes.set_xticks(centres[:num_columns], titles)
    # Class names may contain dollar signs.
    axes.set_yticks(centres[:rows], names, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _save(path, figure)


def _choose(split: Split) -> NDArray[np.int64]:
    """Return indices of a few images, of different classes if there are classes."""
    firsts = np.arange(min(NUM_SHOWN, len(split)))
    if split.labels is not None:
        firsts = np.unique(split.labels, return_index=True)[1]
    shown: NDArray[np.int64] = firsts[np.linspace(0, len(firsts) - 1, min(NUM_SHOWN, len(firsts))).round().astype(int)]
    return shown


def _names(dataset: Dataset, indices: NDArray[np.int64]) -> list[str]:
    """Return the class names of training images, or their numbers if there are no classes."""
    names, labels = dataset.info.class_names, dataset.split("train").labels
    if names is None or labels is None:
        return [f"image {index}" for index in indices]
    return [names[label] for label in labels[indices]]


def _arrange(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Arrange images `[rows, columns, c, h, w]` side by side on white: `[height, width, c]`."""
    room = ((0, 0), (0, 0), (0, 0), (0, GAP), (0, GAP))
    rows, columns, c, h, w = (padded := np.pad(images, room, constant_values=255)).shape
    return padded.transpose(0, 3, 1, 4, 2).reshape(rows * h, columns * w, c)[:-GAP, :-GAP]


def _plot(axes: Axes, x: NDArray[np.int64], lines: Mapping[str, torch.Tensor]) -> None:
    for label, y in lines.items():
        axes.plot(x, y.numpy(), label=label, marker="." if len(x) < 50 else None)
    axes.set_xlabel("t")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _relative(weight: torch.Tensor) -> torch.Tensor:
    """Divide a weight by its maximum; values near zero become NaN, which a logarithmic axis omits."""
    relative = weight / weight.max().clamp(min=SMALLEST_SHOWN)
    return torch.where(relative > SMALLEST_SHOWN, relative, torch.nan)


def _save(path: Path, figure: Figure) -> None:
    with replacing(path) as temporary:
        # Without the name and version of matplotlib, which would change the file but not the picture.
        figure.savefig(temporary, format="png", dpi=100, metadata={"Software": None})
