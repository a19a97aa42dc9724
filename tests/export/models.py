"""Small models with random weights, and what our own sampler draws with them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipeline.artefacts.model import DataSpec, Description, Model, build_network, plan_for, save_model
from pipeline.artefacts.sampling_defaults import SamplingDefaults
from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.samplers import Sampler
from pipeline.diffusion.sampling import sample
from tests.command_line import foundry
from tests.small_sets import SMALL_NETWORK

SCHEDULE = NoiseSchedule(cosine_betas(50))
WITH_CLASSES = Description(
    data=DataSpec(image_size=8, channels=1, class_names=("cat", "dog"), sigma_data=0.5),
    network=replace(SMALL_NETWORK, attention=True),
    target="v",
    sampling=SamplingDefaults(sampler="dpmpp_2m", num_steps=5, guidance_scale=1.0),
    timetables={"ddim": {"3": (49, 20, 3)}},
)
WITHOUT_CLASSES = replace(
    WITH_CLASSES,
    data=replace(WITH_CLASSES.data, image_size=(8, 12), class_names=None, channels=4),
    network=SMALL_NETWORK,
    target="x0",
)


def save(folder: Path, description: Description) -> Path:
    # A new network predicts 0 everywhere, which any export would get right.
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: weight + 0.1 * torch.randn(weight.shape, generator=generator)
        for name, weight in build_network(description, seed=0).state_dict().items()
    }
    save_model(folder, description, weights=weights, schedule=SCHEDULE)
    return folder


def export(to: str, model: Path, out: Path) -> None:
    foundry("model", "export", "--to", to, "--model", model, "--out", out)


def draw(
    model: Model, sampler: Sampler, num_steps: int, seeds: list[int], labels: list[int], **options: Any
) -> torch.Tensor:
    return sample(
        model.denoiser(),
        plan_for(model, sampler, num_steps, **options),
        seeds,
        torch.tensor(labels),
        model.description.data.shape,
        null_label=model.null_label,
    )
