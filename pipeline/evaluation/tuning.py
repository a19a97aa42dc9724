"""What is chosen after training: how long the average of the weights is, how much it is guided, at which t it is asked.

All are chosen on training images, so that the held-out ones judge what was not chosen by them. How much is spent is
counted in network rows and not in seconds: the same commit makes the same choice on a fast machine and a slow one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.artefacts.model import Model, SamplingDefaults
from pipeline.artefacts.schedule_table import ScheduleTable
from pipeline.artefacts.subset import Subset
from pipeline.device import best_device
from pipeline.diffusion.refinement import refined
from pipeline.diffusion.sampling import make_plan, sample
from pipeline.diffusion.seeds import image_seed
from pipeline.diffusion.timetables import times_for, timetable
from pipeline.evaluation.apply_tuning import averaged
from pipeline.evaluation.choose_guidance import choose_guidance
from pipeline.evaluation.evaluator import Evaluator
from pipeline.inference.losses import level_figures, loss_per_noise_level
from pipeline.params import EvaluateParams

NUM_FOR_WIDTH, NUM_LEVELS = 128, 12
"""Training images that are denoised, and at how many levels, for each length of the average."""
NUM_DRAWN = 32
"""Images that are drawn with each timetable."""
NUM_EXACT_STEPS = 100
"""Steps of DPM-Solver++(2M) after which an image is taken as what the exact probability flow makes of its noise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """What tuning.json holds."""

    ema_width: float
    """Relative width sigma_rel of the average."""
    sampling: SamplingDefaults
    timetables: Mapping[str, Mapping[str, tuple[int, ...]]]
    """By sampler and number of steps, those of the model with the refined one in its place."""
    ema_losses: Mapping[str, float]
    """By width, the squared error over the best linear denoiser's."""
    guidance_distances: Mapping[str, float]
    """By scale, the Frechet distance of pictures from training images; none where there was no choice."""
    refinement: Mapping[str, float]
    """Root mean squared difference, in pixels of [-1, 1], from the exact images: `before` and `after`."""

    def document(self) -> dict[str, Any]:
        return asdict(self)


def tune(
    model: Model, snapshots: Mapping[str, Tensor], judge: Evaluator, table: ScheduleTable, params: EvaluateParams
) -> Tuning:
    """Choose first the average, then the guidance for it, then the times for both; `judge` goes by training images.

    The model's network is left with the weights chosen.
    """
    width, ema_losses = _choose_width(model, snapshots, judge.real, table, params)
    model.network.load_state_dict(averaged(snapshots, width))
    sampling, distances = choose_guidance(model, sampling_of(model, params), judge, params)
    times, refinement = _refine_times(model, sampling, params)
    timetables = {sampler: dict(by_steps) for sampler, by_steps in model.description.timetables.items()}
    timetables.setdefault(sampling.sampler, {})[str(sampling.num_steps)] = times
    return Tuning(
        ema_width=width,
        sampling=sampling,
        timetables=timetables,
        ema_losses=ema_losses,
        guidance_distances={str(scale): distance for scale, distance in distances.items()},
        refinement=refinement,
    )


def sampling_of(model: Model, params: EvaluateParams) -> SamplingDefaults:
    """What params ask for before guidance is chosen, as far as this model can: no more steps than there are t."""
    return SamplingDefaults(
        sampler=params.sampler,
        num_steps=min(params.num_steps, model.schedule.num_timesteps),
        guidance_scale=1.0,
    )


def _choose_width(
    model: Model, snapshots: Mapping[str, Tensor], train: Subset, table: ScheduleTable, params: EvaluateParams
) -> tuple[float, dict[str, float]]:
    """Of the widths in params the one whose average denoises training images best, and what each loses."""
    images = train.part(slice(NUM_FOR_WIDTH))
    device, losses = best_device().device, {}
    for width in params.ema_widths:
        model.network.load_state_dict(averaged(snapshots, width))
        levels = loss_per_noise_level(
            model.denoiser(device), images, table, num_levels=NUM_LEVELS, seed=params.seed, device=device
        )
        losses[width] = level_figures(levels)["mse_over_linear"]
    best = min(losses, key=lambda width: losses[width])
    return best, {str(width): loss for width, loss in losses.items()}


def _refine_times(
    model: Model, sampling: SamplingDefaults, params: EvaluateParams
) -> tuple[tuple[int, ...], dict[str, float]]:
    """Times at which the model's images come nearest to those of the exact probability flow from the same noise.

    Also how near they came. A sampler that adds noise draws no particular image of a first noise: its times stay.
    """
    schedule = model.schedule
    times = times_for(model.description.timetables.get(sampling.sampler, {}), sampling.num_steps, schedule)
    if sampling.sampler == "ddpm":
        return times, {}
    exact_times = timetable("log_snr", schedule, min(NUM_EXACT_STEPS, schedule.num_timesteps))
    exact = _drawn(model, replace(sampling, sampler="dpmpp_2m"), exact_times, params.seed)
    rows_a_try = NUM_DRAWN * sampling.num_steps * (1 if sampling.guidance_scale == 1 else 2)
    num_tries = max(1, params.tuning_rows // rows_a_try)
    errors: dict[tuple[int, ...], float] = {}
    with tqdm(total=num_tries, desc="times", unit=" tries", mininterval=0.5) as bar:

        def error(tried: tuple[int, ...]) -> float:
            bar.update()
            difference = _drawn(model, sampling, tried, params.seed) - exact
            errors[tried] = float(difference.square().mean().sqrt())
            return errors[tried]

        found = refined(times, error, num_tries=num_tries)
    return found, {"before": errors[times], "after": errors[found]}


def _drawn(model: Model, sampling: SamplingDefaults, times: tuple[int, ...], seed: int) -> Tensor:
    device, null = best_device().device, model.null_label
    # Other seeds than those of the samples that are judged.
    return sample(
        model.denoiser(device),
        make_plan(sampling.sampler, model.schedule, times),
        [image_seed(seed + 1, i) for i in range(NUM_DRAWN)],
        torch.arange(NUM_DRAWN) % null if null else None,
        model.description.data.shape,
        guidance_scale=sampling.guidance_scale,
        null_label=null,
        device=device,
    )
