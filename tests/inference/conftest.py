import numpy as np
import pytest
import torch

from pipeline.artefacts.model import DataSpec, Description, Model, build_network
from pipeline.artefacts.sampling_defaults import SamplingDefaults
from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.noise import NoiseSchedule
from tests.small_sets import SMALL_NETWORK


@pytest.fixture(scope="module")
def model() -> Model:
    """A network that was never trained, with weights everywhere."""
    description = Description(
        data=DataSpec(image_size=8, channels=3, class_names=("a", "b"), sigma_data=0.5),
        network=SMALL_NETWORK,
        target="x0",
        sampling=SamplingDefaults(sampler="ddim", num_steps=3, guidance_scale=1.0),
    )
    network = build_network(description, seed=0).eval().requires_grad_(requires_grad=False)
    random = np.random.default_rng(0)
    for weight in network.parameters():
        weight.add_(torch.from_numpy(0.1 * random.standard_normal(weight.shape)).float())
    return Model(description, network, NoiseSchedule(cosine_betas(20)), digest="")
