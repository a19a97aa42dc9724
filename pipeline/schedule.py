"""Stage `schedule`: the noise schedule as a table, with moments of the images, checks and optimised timetables.

Reads: data/prepared
Writes: data/schedule (docs/contracts.md lists it file by file)
Params: schedule
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from pipeline.artefacts.dataset import Dataset
from pipeline.artefacts.files import remove_outputs, write_json
from pipeline.artefacts.schedule_table import WEIGHT_COLUMNS, ScheduleTable, write_schedule_table
from pipeline.artefacts.subset import Subset, evenly_spaced, images_for_levels
from pipeline.artefacts.tensors import save_tensors
from pipeline.diffusion.betas import BETAS, rescale_zero_terminal_snr
from pipeline.diffusion.density import DENSITIES
from pipeline.diffusion.gaussian import gaussian_bits_per_dim, held_out_linear_denoiser_mse, prior_kl_bits_per_dim
from pipeline.diffusion.moments import Moments, image_moments
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.samplers import SAMPLERS
from pipeline.diffusion.timetables import optimise_each
from pipeline.diffusion.weighting import SnrBounds, loss_weight
from pipeline.errors import CheckFailedError
from pipeline.params import Density, ScheduleParams, load_params
from pipeline.progress import progress_bar
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
"""Images in memory at once."""

NUM_STEPS = (*range(4, 21), 25, 30, 40, 50)
"""Numbers of steps for which timetables are optimised; for a number between two of them the timetable of the larger one is
stretched. The time of a search grows with the square of the number of steps."""


def main(prepared: Path, out: Path) -> None:
    """Run the stage."""
    # One order of summation, so that the bytes do not depend on the number of cores; for small tensors faster, too.
    torch.set_num_threads(1)
    params, dataset = load_params().schedule, Dataset.open(prepared)
    with stage_run("schedule", params={"schedule": params.model_dump(mode="json")}) as run:
        schedule(dataset, out, params, run)


def schedule(dataset: Dataset, out: Path, params: ScheduleParams, run: StageRun | None = None) -> None:
    """Write the files of the stage into `out`, and log statistics and plots to `run`, also if a check fails.

    Raises:
        CheckFailedError: at its last step the schedule leaves more of the image than `params` allow.
    """
    remove_outputs(out, OUTS)
    noise = noise_schedule(params, out, run)
    train = dataset.split("train")
    moments = image_moments(batches(evenly_spaced(train, len(train))))
    held_out = images_for_levels(dataset.split("held_out"))
    schedule_table = make_table(params, noise, moments, moments.variances_of(batches(held_out)))
    statistics = make_statistics(params, noise, moments)
    write_schedule_table(out / "table.parquet", schedule_table)
    names = ("mean_image", "eigenvalues", "eigenvectors")
    save_tensors(out / "moments.safetensors", {name: getattr(moments, name) for name in names})
    write_curves_csv(out / "curves.csv", schedule_table)
    write_curves(out / "curves.png", schedule_table, moments)
    write_forward(out / "forward.png", dataset, noise)
    record(statistics, out, run)
    check_gates(params, statistics, out)
    write_json(out / "timetables.json", make_timetables(noise, moments))


def record(statistics: dict[str, float | bool], out: Path, run: StageRun | None) -> None:
    """Write statistics.json, and log it with the plots in `out`."""
    write_json(out / "statistics.json", statistics)
    if run is None:
        return
    run.metrics(statistics)
    for name in ("curves", "forward"):
        if (out / f"{name}.png").exists():
            run.image(f"schedule/{name}", out / f"{name}.png")


def noise_schedule(params: ScheduleParams, out: Path, run: StageRun | None = None) -> NoiseSchedule:
    """The schedule that `params` describe.

    Raises:
        CheckFailedError: abar does not fall strictly from image to noise.
    """
    try:
        return NoiseSchedule(make_betas(params))
    except ValueError as error:
        record({"schedule/num_timesteps": params.num_timesteps, "schedule/gates_passed": False}, out, run)
        raise CheckFailedError(f"params.yaml: schedule.betas: {error}") from None


def make_betas(params: ScheduleParams) -> Tensor:
    """float64 `[T]`."""
    settings = params.betas.model_dump()
    kind = settings.pop("kind")
    if kind == "trained":
        beta = torch.tensor(settings["values"], dtype=torch.float64)
    else:
        beta = BETAS[kind](params.num_timesteps, **settings)
    return rescale_zero_terminal_snr(beta) if params.zero_terminal_snr else beta


def make_density(params: Density, noise: NoiseSchedule) -> Tensor:
    """float64 `[T]`, sums to 1."""
    return DENSITIES[params.kind](noise, **params.model_dump(exclude={"kind"}))


def make_table(
    params: ScheduleParams, noise: NoiseSchedule, moments: Moments, held_out_variances: Tensor
) -> ScheduleTable:
    """The table of every t; `held_out_variances` are the variances of held-out images along the axes of `moments`."""
    bounds = SnrBounds(params.snr_floor, params.min_snr_gamma)
    return ScheduleTable(
        schedule=noise,
        density=make_density(params.density, noise),
        weights={pair: loss_weight(*pair, noise, bounds) for pair in WEIGHT_COLUMNS},
        linear_denoiser_mse=held_out_linear_denoiser_mse(moments.eigenvalues, held_out_variances, noise),
    )


def make_statistics(params: ScheduleParams, noise: NoiseSchedule, moments: Moments) -> dict[str, float | bool]:
    """The content of statistics.json."""
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
    """One line for each figure beyond its limit."""
    for name in ("prior_kl_bits_per_dim", "terminal_snr"):
        found, limit = statistics[f"schedule/{name}"], getattr(params, f"max_{name}")
        if not found <= limit:
            yield (
                f"schedule/{name}: found {found:.4g}, wanted at most {limit:g} (schedule.max_{name}): x at the last t "
                "still contains the image; more or larger betas, or schedule.zero_terminal_snr, leave less of it"
            )


def make_timetables(noise: NoiseSchedule, moments: Moments) -> dict[str, dict[str, tuple[int, ...]]]:
    """The timetable with the least error on Gaussian data with this spectrum, by sampler and number of steps."""
    numbers = [number for number in NUM_STEPS if number <= noise.num_timesteps]
    with progress_bar(name="timetables", unit="tables", total=len(SAMPLERS) * len(numbers)) as bar:
        timetables: dict[str, dict[str, tuple[int, ...]]] = {}
        for sampler in SAMPLERS:
            timetables[sampler] = {}
            for times in optimise_each(sampler, numbers, noise, moments.eigenvalues):
                timetables[sampler][str(len(times))] = times
                bar.update()
    return timetables


def batches(images: Subset) -> Iterator[Tensor]:
    """All images, in batches of uint8 `[n, h, w, c]`."""
    return map(torch.from_numpy, images.batches(BATCH_SIZE))


def check_gates(params: ScheduleParams, statistics: dict[str, float], out: Path) -> None:
    """Refuse a schedule that exceeds a limit.

    Raises:
        CheckFailedError: one line per limit.
    """
    if findings := [f"{out / 'statistics.json'}: {finding}" for finding in failed_gates(params, statistics)]:
        raise CheckFailedError("\n".join(findings))


if __name__ == "__main__":
    from pipeline import cli

    cli.main(["schedule", *sys.argv[1:]])
