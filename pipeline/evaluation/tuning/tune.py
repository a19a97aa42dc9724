"""Tuning after training: the EMA length of the weights, the guidance scale and the sampling times.

All are chosen on training images, so that the figures on held-out images stay unbiased. The budget is counted in
network rows instead of seconds, so that the choice does not depend on the speed of the machine.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pipeline.artefacts.model import Model
from pipeline.artefacts.sampling_defaults import SamplingDefaults, guidance_in_words
from pipeline.artefacts.schedule_table import ScheduleTable
from pipeline.artefacts.subset import Subset
from pipeline.device import best_device
from pipeline.diffusion.guidance_interval import same_noise_levels
from pipeline.diffusion.refinement import refined
from pipeline.diffusion.sampling import make_plan
from pipeline.diffusion.seeds import image_seed
from pipeline.diffusion.timetables import times_for, timetable
from pipeline.evaluation.evaluator import Evaluator
from pipeline.evaluation.tuning.apply import average_weights
from pipeline.evaluation.tuning.guidance import choose_guidance
from pipeline.inference.cores import denoiser_here
from pipeline.inference.draw import draw_batches
from pipeline.inference.losses import level_figures, loss_per_noise_level
from pipeline.params import EvaluateParams
from pipeline.progress import progress_bar

NUM_FOR_WIDTH, NUM_LEVELS = 128, 12
"""Training images and noise levels by which each EMA length is compared."""
NUM_DRAWN = 32
"""Images drawn with each timetable."""
NUM_EXACT_STEPS = 100
"""Steps of DPM-Solver++(2M) that stand for the exact solution of the probability flow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """The content of tuning.json."""

    ema_width: float | None
    """Relative EMA width sigma_rel; None: the weights of model.safetensors, as training wrote them."""
    sampling: SamplingDefaults
    timetables: Mapping[str, Mapping[str, tuple[int, ...]]]
    """Sampling times by sampler and number of steps: the model's own, with the refined ones in their place."""
    ema_losses: Mapping[str, float]
    """Squared error, relative to the best linear denoiser's, by EMA width; empty if there was no choice."""
    guidance_distances: Mapping[str, float]
    """Frechet distance to training images by `guidance_in_words`; empty if there was no choice."""
    class_agreements: Mapping[str, float]
    """Share of images whose class is recognised by `guidance_in_words`; empty also if the extractor is no classifier."""
    refinement: Mapping[str, float]
    """Root mean squared difference from the exact images, of pixels in [-1, 1], `before` and `after`."""

    def document(self) -> dict[str, Any]:
        return asdict(self)


def tune(
    model: Model,
    snapshots: Mapping[str, Tensor],
    evaluator: Evaluator,
    table: ScheduleTable,
    params: EvaluateParams,
    real_agreement: float | None,
) -> Tuning:
    """Choose the EMA length, then the guidance for it, then the times for both; a student keeps its own sampling.

    Args:
        model: its network has the chosen weights afterwards.
        snapshots: tensors by `<step>/<width>/<weight>`.
        evaluator: compares with training images.
        table: the noise schedule, and the errors of the best linear denoiser.
        params: the candidates.
        real_agreement: share of real images new to the extractor whose class it recognises, if it is a classifier.
    """
    if model.description.is_distilled:
        return untuned(model)
    width, ema_losses = _choose_width(model, snapshots, evaluator.real, table, params)
    model.network.load_state_dict(average_weights(snapshots, width))
    unguided = default_sampling(params, model.schedule.num_timesteps)
    sampling, candidates = choose_guidance(model, unguided, evaluator, params, real_agreement)
    measured = {
        guidance_in_words(tried.guidance_scale, tried.guidance_interval): found for tried, found in candidates.items()
    }
    times, refinement = _refine_times(model, sampling, params)
    timetables = {sampler: dict(by_steps) for sampler, by_steps in model.description.timetables.items()}
    timetables.setdefault(sampling.sampler, {})[str(sampling.num_steps)] = times
    return Tuning(
        ema_width=width,
        sampling=sampling,
        timetables=timetables,
        ema_losses=ema_losses,
        guidance_distances={words: found.distance for words, found in measured.items()},
        class_agreements={
            words: found.class_agreement for words, found in measured.items() if found.class_agreement is not None
        },
        refinement=refinement,
    )


def untuned(model: Model) -> Tuning:
    """The sampling of the model as it was trained, without choices."""
    description = model.description
    return Tuning(
        ema_width=None,
        sampling=description.sampling,
        timetables=description.timetables,
        ema_losses={},
        guidance_distances={},
        class_agreements={},
        refinement={},
    )


def default_sampling(params: EvaluateParams, num_timesteps: int) -> SamplingDefaults:
    """Unguided sampling with the sampler and number of steps of `params`, at most one step per noise level."""
    return SamplingDefaults(sampler=params.sampler, num_steps=min(params.num_steps, num_timesteps), guidance_scale=1.0)


def _choose_width(
    model: Model, snapshots: Mapping[str, Tensor], train: Subset, table: ScheduleTable, params: EvaluateParams
) -> tuple[float, dict[str, float]]:
    """Choose the EMA width with the lowest denoising error on training images; returns it and the errors by width."""
    images = train.part(slice(NUM_FOR_WIDTH))
    device, losses = best_device().device, {}
    for width in params.ema_widths:
        model.network.load_state_dict(average_weights(snapshots, width))
        levels = loss_per_noise_level(
            denoiser_here(model), images, table, num_levels=NUM_LEVELS, seed=params.seed, device=device
        )
        losses[width] = level_figures(levels)["mse_over_linear"]
    best = min(losses, key=lambda width: losses[width])
    return best, {str(width): loss for width, loss in losses.items()}


def _refine_times(
    model: Model, sampling: SamplingDefaults, params: EvaluateParams
) -> tuple[tuple[int, ...], dict[str, float]]:
    """Refine the times towards the images of the exact probability flow; returns them and the errors.

    The times of DDPM stay as they are: it adds noise, so its images have no exact counterpart.
    """
    schedule = model.schedule
    times = times_for(model.description.timetables.get(sampling.sampler, {}), sampling.num_steps, schedule)
    if sampling.sampler == "ddpm":
        return times, {}
    exact_times = timetable("log_snr", schedule, min(NUM_EXACT_STEPS, schedule.num_timesteps))
    interval = same_noise_levels(sampling.guidance_interval, times, exact_times)
    exact_sampling = replace(sampling, sampler="dpmpp_2m", guidance_interval=interval)
    exact = _draw(model, exact_sampling, exact_times, params.seed)
    num_tries = max(1, params.tuning_rows // (NUM_DRAWN * sampling.num_rows))
    errors: dict[tuple[int, ...], float] = {}
    with progress_bar(name="times", unit="tries", total=num_tries) as bar:

        def error_of(tried: tuple[int, ...]) -> float:
            bar.update()
            difference = _draw(model, sampling, tried, params.seed) - exact
            errors[tried] = float(difference.square().mean().sqrt())
            return errors[tried]

        best = refined(times, error_of, num_tries=num_tries)
    return best, {"before": errors[times], "after": errors[best]}


def _draw(model: Model, sampling: SamplingDefaults, times: tuple[int, ...], seed: int) -> Tensor:
    # Other seeds than those of the evaluated samples.
    seeds = [image_seed(seed + 1, i) for i in range(NUM_DRAWN)]
    labels = [i % model.null_label for i in range(NUM_DRAWN)] if model.null_label else None
    plan = make_plan(
        sampling.sampler,
        model.schedule,
        times,
        guidance_scale=sampling.guidance_scale,
        guidance_interval=sampling.guidance_interval,
    )
    return torch.cat(list(draw_batches(model, plan, seeds, labels)))
