"""Stage `schedule`: the noise schedule as a table, and what it and the images say of each other.

Reads: data/prepared
Writes: data/schedule (docs/contracts.md lists it file by file)
Params: schedule
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.artefacts.dataset import Dataset, Split
from pipeline.artefacts.files import remove_outputs, write_json
from pipeline.artefacts.schedule_table import WEIGHT_COLUMNS, ScheduleTable, write_schedule_table
from pipeline.artefacts.tensors import save_tensors
from pipeline.diffusion import betas, density
from pipeline.diffusion.gaussian import gaussian_bits_per_dim, linear_denoiser_mse, prior_kl_bits_per_dim
from pipeline.diffusion.moments import Moments, image_moments
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.sampling import SAMPLERS
from pipeline.diffusion.timetables import optimise_each
from pipeline.diffusion.weighting import SnrBounds, loss_weight
from pipeline.errors import CheckFailedError
from pipeline.params import Density, ScheduleParams, load_params
from pipeline.reporting.schedule_plots import write_curves, write_curves_csv, write_forward
from pipeline.tracking.runs import StageRun, stage_run

OUTS = (
    "table.parquet",
    "statistics.json",
    "moments.safetensors",
    "timetables.json",
    "curves.csv",
    "curves.png",
    "forward.png",
)

BATCH_SIZE = 4096
"""Images in memory at a time."""

NUM_STEPS = range(4, 51)
"""Numbers of steps whose sampling times are optimised."""


def main(prepared: Path, out: Path) -> None:

    # Sums in one order, so the same bytes however many cores there are; and faster, since the tensors are small.
    torch.set_num_threads(1)
    params, dataset = load_params().schedule, Dataset.open(prepared)
    with stage_run("schedule", params={"schedule": params.model_dump(mode="json")}) as run:
        try:
            schedule(dataset, out, params)
        finally:
            log(run, out)


def schedule(prepared: Dataset, out: Path, params: ScheduleParams) -> None:
    """Make `out` from `prepared`.

    Raises:
        CheckFailedError: the schedule does not fall from image to noise as `params` want it to; the evidence is in `out`.

    """
    remove_outputs(out, OUTS)
    noise = noise_schedule(params, out)
    moments = image_moments(batches(prepared.split("train")))
    table = make_table(params, noise, moments)
    statistics = make_statistics(params, noise, moments)
    write_json(out / "statistics.json", statistics)
    write_schedule_table(out / "table.parquet", table)
    names = ("mean_image", "eigenvalues", "eigenvectors")
    save_tensors(out / "moments.safetensors", {name: getattr(moments, name) for name in names})
    write_curves_csv(out / "curves.csv", table)
    write_curves(out / "curves.png", table, moments)
    write_forward(out / "forward.png", prepared, noise)
    check_gates(params, statistics, out)
    write_json(out / "timetables.json", make_timetables(noise, moments))


def noise_schedule(params: ScheduleParams, out: Path) -> NoiseSchedule:
    """The schedule that `params` describe.

    Raises:
        CheckFailedError: abar does not fall strictly from image to noise.

    """
    try:
        return NoiseSchedule(make_betas(params))
    except ValueError as error:
        statistics = {"schedule/num_timesteps": params.num_timesteps, "schedule/gates_passed": False}
        write_json(out / "statistics.json", statistics)
        raise CheckFailedError(f"params.yaml: schedule.betas: {error}") from None


def make_betas(params: ScheduleParams) -> Tensor:
    """float64 `[T]`."""
    named: dict[str, Callable[..., Tensor]] = {
        "linear": betas.linear_betas,
        "scaled_linear": betas.scaled_linear_betas,
        "cosine": betas.cosine_betas,
        "sigmoid": betas.sigmoid_betas,
    }
    settings = params.betas.model_dump()
    kind = settings.pop("kind")
    if kind == "trained":
        beta = torch.tensor(settings["values"], dtype=torch.float64)
    else:
        beta = named[kind](params.num_timesteps, **settings)
    return betas.rescale_zero_terminal_snr(beta) if params.zero_terminal_snr else beta


def make_density(params: Density, noise: NoiseSchedule) -> Tensor:
    """float64 `[T]`, sums to 1."""
    named: dict[str, Callable[..., Tensor]] = {
        "uniform": density.uniform_density,
        "laplace": density.laplace_density,
        "normal": density.normal_density,
    }
    return named[params.kind](noise, **params.model_dump(exclude={"kind"}))


def make_table(params: ScheduleParams, noise: NoiseSchedule, moments: Moments) -> ScheduleTable:

    bounds = SnrBounds(params.snr_floor, params.min_snr_gamma)
    return ScheduleTable(
        schedule=noise,
        density=make_density(params.density, noise),
        weights={pair: loss_weight(*pair, noise, bounds) for pair in WEIGHT_COLUMNS},
        linear_denoiser_mse=linear_denoiser_mse(moments.eigenvalues, noise),
    )


def make_statistics(params: ScheduleParams, noise: NoiseSchedule, moments: Moments) -> dict[str, float | bool]:
    """statistics.json."""
    statistics = {
        "schedule/num_timesteps": noise.num_timesteps,
        "schedule/sigma_data": moments.sigma_data,
        "schedule/mean_x0_squared": moments.mean_x0_squared,
        "schedule/gaussian_bits_per_dim": gaussian_bits_per_dim(moments.eigenvalues),
        "schedule/prior_kl_bits_per_dim": prior_kl_bits_per_dim(noise, moments.mean_x0_squared),
        "schedule/terminal_snr": float(noise.snr[-1]),
    }
    return {**statistics, "schedule/gates_passed": not list(failed_gates(params, statistics))}


def failed_gates(params: ScheduleParams, statistics: dict[str, float]) -> Iterator[str]:
    """A line for each figure beyond its limit."""
    for name in ("prior_kl_bits_per_dim", "terminal_snr"):
        found, limit = statistics[f"schedule/{name}"], getattr(params, f"max_{name}")
        if not found <= limit:
            yield (
                f"schedule/{name}: found {found:.4g}, wanted at most {limit:g} (schedule.max_{name}): the last t still "
                "knows the image; more or larger betas, or schedule.zero_terminal_snr, leave less of it"
            )


def make_timetables(noise: NoiseSchedule, moments: Moments) -> dict[str, dict[str, tuple[int, ...]]]:
    """For each sampler and number of steps the times that lose least on Gaussian data with this spectrum."""
    numbers = [number for number in NUM_STEPS if number <= noise.num_timesteps]
    with tqdm(total=len(SAMPLERS) * len(numbers), desc="timetables") as bar:
        timetables: dict[str, dict[str, tuple[int, ...]]] = {}
        for sampler in SAMPLERS:
            timetables[sampler] = {}
            for times in optimise_each(sampler, numbers, noise, moments.eigenvalues):
                timetables[sampler][str(len(times))] = times
                bar.update()
    return timetables


def batches(split: Split) -> Iterator[Tensor]:
    """All images of a split, `uint8 [n, h, w, c]` at a time."""
    for start in range(0, len(split), BATCH_SIZE):
        yield torch.from_numpy(split.images(slice(start, start + BATCH_SIZE)))


def check_gates(params: ScheduleParams, statistics: dict[str, float], out: Path) -> None:
    """Refuse a schedule that fails a gate.

    Raises:
        CheckFailedError: one line a gate.

    """
    if findings := [f"{out / 'statistics.json'}: {finding}" for finding in failed_gates(params, statistics)]:
        raise CheckFailedError("\n".join(findings))


def log(run: StageRun, out: Path) -> None:
    """Show MLflow what there is, evidence of a failed gate too."""
    statistics = out / "statistics.json"
    if statistics.exists():
        run.metrics(json.loads(statistics.read_text(encoding="utf-8")))
    for name in ("curves", "forward"):
        if (out / f"{name}.png").exists():
            run.image(f"schedule/{name}", out / f"{name}.png")


if __name__ == "__main__":
    from pipeline import cli

    cli.main(["schedule", *sys.argv[1:]])
