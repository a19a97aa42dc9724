"""Untrained models of digits whose quality can be chosen, and a setup in which they are compared."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from pipeline.artefacts.model import DataSpec, Description, build_network, save_model
from pipeline.artefacts.sampling_defaults import SamplingDefaults
from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.features import features
from pipeline.params import load_params
from pipeline.registry.gate.evaluation_setup import EvaluationSetup
from tests.small_sets import SMALL_NETWORK, features_params, write_prepared

ROOT = Path(__file__).parents[1]
Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]
NUM_SAMPLES = 120
CLASSES = tuple(f"digit {number}" for number in range(10))
GOOD, FAIR, BAD = (0.4, -0.6), (0.02, -0.4), (0.02, 0.9)
"""Contrast and brightness of random patterns: KID 75, 160 and 2,400."""


def write_setup(folder: Path, digits: Digits, *, num_images: int = 1200) -> Path:
    """Write `prepared` and `features` of some digits."""
    order = np.random.default_rng(0).permutation(len(digits[0]))[:num_images]
    prepared = write_prepared(folder / "prepared", digits[0][order, ..., None], digits[1][order], num_images // 3)
    features(prepared, folder / "features", features_params())
    return folder


def open_setup(folder: Path) -> EvaluationSetup:
    """Write params.yaml into the working folder, where the evaluation processes read it."""
    document = yaml.safe_load((ROOT / "tests" / "params.yaml").read_text())
    document["evaluate"] |= {"num_samples": NUM_SAMPLES, "num_steps": 4}
    # Networks of a few thousand weights are too fast and too small for precise measurements.
    document["register"] |= {"max_latency_ratio": 5.0, "max_memory_ratio": 2.0}
    Path("params.yaml").write_text(yaml.safe_dump(document))
    return EvaluationSetup(prepared=folder / "prepared", features=folder / "features", params=load_params())


def write_rival(
    folder: Path,
    data_digest: str,
    *,
    quality: tuple[float, float] = GOOD,
    seed: int = 0,
    classes: tuple[str, ...] | None = CLASSES,
    image_size: int = 8,
    num_steps: int = 4,
    origin: Mapping[str, str] | None = None,
) -> Path:
    """Write a model that draws a pattern of this quality."""
    description = Description(
        data=DataSpec(image_size=image_size, channels=1, class_names=classes, sigma_data=0.5),
        network=SMALL_NETWORK,
        target="x0",
        sampling=SamplingDefaults(sampler="dpmpp_2m", num_steps=num_steps, guidance_scale=1.0),
        provenance={"data_digest": data_digest, **(origin or {})},
    )
    weights = build_network(description, seed=seed).state_dict()
    generator = torch.Generator().manual_seed(seed)
    contrast, brightness = quality
    weights["outward.weight"] = contrast * torch.randn(weights["outward.weight"].shape, generator=generator)
    weights["outward.bias"] = torch.full_like(weights["outward.bias"], brightness)
    save_model(folder, description, weights=weights, schedule=NoiseSchedule(cosine_betas(25)))
    return folder
