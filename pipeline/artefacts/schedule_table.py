"""table.parquet: the noise schedule and everything derived from it, one row per t; the only source of betas."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from pipeline.artefacts.files import replacing
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.target import TARGETS, Target
from pipeline.diffusion.weighting import WEIGHTINGS, Weighting
from pipeline.errors import ArtefactError

WEIGHT_COLUMNS = {(target, weighting): f"weight_{target}_{weighting}" for target in TARGETS for weighting in WEIGHTINGS}


@dataclass(frozen=True, eq=False)
class ScheduleTable:
    """The noise schedule, the density of t and the loss weights; every tensor is float64 `[T]`."""

    schedule: NoiseSchedule
    density: Tensor
    """Probability of each t in training; sums to 1."""
    weights: Mapping[tuple[Target, Weighting], Tensor]
    """Weights of the squared error of each target."""
    linear_denoiser_mse: Tensor
    """Mean squared error of x0 per dimension of the best affine denoiser that the training images give."""

    def weight(self, target: Target, weighting: Weighting) -> Tensor:
        """Weight of the squared error of `target` at each t."""
        return self.weights[target, weighting]

    def frame(self) -> pd.DataFrame:
        """One row per t, with the columns listed in docs/contracts.md."""
        columns = _schedule_columns(self.schedule)
        columns |= {name: self.weights[pair] for pair, name in WEIGHT_COLUMNS.items()}
        columns |= {"density": self.density, "linear_denoiser_mse": self.linear_denoiser_mse}
        frame = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
        frame.insert(0, "t", range(len(frame)))
        return frame


def write_schedule_table(path: Path, table: ScheduleTable) -> None:
    """Write `path` atomically; float64 keeps every bit."""
    with replacing(path) as temporary:
        table.frame().to_parquet(temporary, index=False, write_page_checksum=True)


def read_schedule_table(path: Path) -> ScheduleTable:
    """Read and check `path`.

    Raises:
        ArtefactError: the file is missing or damaged, lacks a column, or its columns are inconsistent.
    """
    frame = _read_frame(path)
    table = ScheduleTable(
        schedule=_read_schedule(path, frame),
        density=_read_column(path, frame, "density"),
        weights={pair: _read_column(path, frame, name) for pair, name in WEIGHT_COLUMNS.items()},
        linear_denoiser_mse=_read_column(path, frame, "linear_denoiser_mse"),
    )
    for column in ("density", "linear_denoiser_mse", *WEIGHT_COLUMNS.values()):
        if not frame[column].between(0, float("inf"), inclusive="left").all():
            raise ArtefactError(f"{path}: column {column}: should be finite and not negative")
    total = float(table.density.sum())
    if abs(total - 1) > 1e-9:
        raise ArtefactError(f"{path}: column density: should sum to 1 (got {total})")
    return table


def _schedule_columns(schedule: NoiseSchedule) -> dict[str, Tensor]:
    return {
        "beta": schedule.beta,
        "alpha": schedule.alpha,
        "abar": schedule.abar,
        "sqrt_abar": schedule.abar.sqrt(),
        "sqrt_one_minus_abar": schedule.one_minus_abar.sqrt(),
        "snr": schedule.snr,
        "log_snr": schedule.log_snr,
        "sigma": schedule.sigma,
        "posterior_variance": schedule.posterior_variance,
        "posterior_x0_coefficient": schedule.posterior_x0_coefficient,
        "posterior_x_coefficient": schedule.posterior_x_coefficient,
    }


def _read_frame(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path, page_checksum_verification=True)
    except FileNotFoundError:
        raise ArtefactError(f"{path}: not found; stage schedule writes it") from None
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path}: not a whole parquet file: {' '.join(str(error).split())[:200]}") from None


def _read_column(path: Path, frame: pd.DataFrame, name: str) -> Tensor:
    if name not in frame or frame[name].dtype != "float64":
        found = frame[name].dtype if name in frame else "no such column"
        raise ArtefactError(f"{path}: column {name}: should be float64 (got {found})")
    return torch.from_numpy(frame[name].to_numpy(copy=True))


def _read_schedule(path: Path, frame: pd.DataFrame) -> NoiseSchedule:
    try:
        schedule = NoiseSchedule(_read_column(path, frame, "beta"))
    except ValueError as error:
        raise ArtefactError(f"{path}: column beta: {error}") from None
    for name, wanted in _schedule_columns(schedule).items():
        # Another machine's logarithm may differ in the last bit.
        if not torch.allclose(_read_column(path, frame, name), wanted, rtol=1e-9):
            raise ArtefactError(f"{path}: column {name}: does not follow from column beta")
    return schedule
