from dataclasses import replace

import pytest
import torch

from pipeline.artefacts.model import DataSpec, Description, Model, build_network
from pipeline.artefacts.sampling_defaults import SamplingDefaults
from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.registry.gate.work import AliveTensors, work_of
from tests.small_sets import SMALL_NETWORK


def made(width: int = 8, num_steps: int = 10, guidance_scale: float = 1.0) -> Model:
    description = Description(
        data=DataSpec(image_size=8, channels=1, class_names=("a", "b"), sigma_data=0.5),
        network=replace(SMALL_NETWORK, widths=(width,)),
        target="v",
        sampling=SamplingDefaults(sampler="ddim", num_steps=num_steps, guidance_scale=guidance_scale),
    )
    return Model(description, build_network(description, seed=0), NoiseSchedule(cosine_betas(25)), digest="")


def test_the_peak_is_that_of_the_tensors_that_are_alive_at_once() -> None:
    with AliveTensors() as alive:
        first = torch.ones(1000, device="meta")
        second = first + 1
        del first
        third = second + 1
        view = third.view(10, 100)
        view.add_(1)
    # Two of 4,000 bytes at a time; a view and what is changed in place take none.
    assert alive.peak == 8000


@pytest.mark.parametrize(("changes", "factor"), [({"num_steps": 20}, 2), ({"guidance_scale": 1.5}, 2), ({}, 1)])
def test_each_step_is_a_row_and_guidance_doubles_them(changes: dict[str, float], factor: int) -> None:
    one, other = work_of(made()), work_of(made(**changes))
    assert other.multiply_adds_per_image == factor * one.multiply_adds_per_image
    assert other.multiply_adds_per_row == one.multiply_adds_per_row


def test_a_wider_network_and_a_guided_one_hold_more() -> None:
    plain = work_of(made()).peak_mib
    # Activations grow with the width, weights with its square.
    assert 1.8 * plain < work_of(made(width=16)).peak_mib < 4 * plain
    assert 1.8 * plain < work_of(made(guidance_scale=1.5)).peak_mib < 2 * plain


def test_the_same_model_has_the_same_work_every_time() -> None:
    assert work_of(made()) == work_of(made())
