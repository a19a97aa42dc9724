from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.artefacts.model import DataSpec, Description, Model
from pipeline.artefacts.sampling_defaults import SamplingDefaults
from pipeline.artefacts.subset import Subset
from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.guidance_interval import ALL_STEPS, Interval
from pipeline.diffusion.images import to_bytes
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.unet import UNet
from pipeline.evaluation.evaluator import Evaluator
from pipeline.evaluation.extractors.extractor import ExtractorConfig, make_extractor
from pipeline.evaluation.tuning.guidance import Measured, best, choose_guidance
from tests.small_sets import NETWORK, evaluate_params, features_params, write_prepared

NAMES = ("left", "right", "above")
MEANS = torch.full((3, 1, 8, 8), -0.4)
MEANS[0, :, :, :4], MEANS[1, :, :, 4:], MEANS[2, :, :4] = 0.4, 0.4, 0.4
STD = 0.1
SAMPLING = SamplingDefaults(sampler="dpmpp_2m", num_steps=12, guidance_scale=1.0)
INTERVALS = (ALL_STEPS, (0.3, 0.7))
SCALES = (3.0, 1.5, 1.0, 2.0, 1.25)
SCHEDULE = NoiseSchedule(cosine_betas(200))


def guided(scale: float, interval: Interval = ALL_STEPS) -> SamplingDefaults:
    return replace(SAMPLING, guidance_scale=scale, guidance_interval=interval)


class Timid(UNet):
    """A denoiser of three Gaussian classes that goes only part of the way from their mean to the requested one.

    Without a class it is the exact denoiser D0 of a Gaussian in the middle, with one D0 + (Dc - D0) / wanted. Guided
    with scale g its images are those of a class g / wanted times as far from the middle; with `wanted` it is exact.
    """

    def __init__(self, wanted: float) -> None:
        nn.Module.__init__(self)
        self.wanted = wanted

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        middle = MEANS.mean(dim=0)
        offsets = torch.cat([(MEANS - middle) / self.wanted, torch.zeros_like(middle)[None]])
        mean, abar = middle + offsets[labels], SCHEDULE.abar[t].to(x.dtype)[:, None, None, None]
        # E[x0 | x] for x0 ~ N(mean, STD^2 I)
        return mean + abar.sqrt() * STD**2 / (abar * STD**2 + 1 - abar) * (x - abar.sqrt() * mean)


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
    """Compares with images drawn from the three classes."""
    generator, labels = torch.Generator().manual_seed(0), torch.arange(900) % len(NAMES)
    images = MEANS[labels] + STD * torch.randn(900, 1, 8, 8, generator=generator)
    pixels = to_bytes(images).permute(0, 2, 3, 1).numpy()
    prepared = write_prepared(tmp_path_factory.mktemp("set") / "prepared", pixels, labels.numpy(), 100)
    real = Subset(prepared.split("train"), np.arange(800))
    config = ExtractorConfig(kind="random", image_size=8, channels=1, num_classes=0)
    extractor = make_extractor(config, features_params(), real)
    return Evaluator(extractor, real, extractor.features(real))


def _model(wanted: float, names: tuple[str, ...] | None = NAMES) -> Model:
    data = DataSpec(image_size=8, channels=1, class_names=names, sigma_data=0.5)
    description = Description(data=data, network=NETWORK, target="x0", sampling=SAMPLING)
    return Model(description, Timid(wanted), SCHEDULE, digest="")


@pytest.mark.parametrize(("wanted", "measured"), [(1.0, 2), (1.25, 3), (1.5, 4), (2.0, 5)])
def test_the_scale_that_makes_the_denoiser_exact_is_chosen(evaluator: Evaluator, wanted: float, measured: int) -> None:
    params = evaluate_params(guidance_scales=SCALES, guidance_intervals=(ALL_STEPS,), guidance_images=100)
    sampling, measured_of = choose_guidance(_model(wanted), SAMPLING, evaluator, params, None)
    assert sampling == SamplingDefaults(sampler="dpmpp_2m", num_steps=12, guidance_scale=wanted)
    assert [tried.guidance_scale for tried in measured_of] == sorted(SCALES)[:measured]
    assert measured_of[sampling].distance == min(each.distance for each in measured_of.values())
    assert {each.class_agreement for each in measured_of.values()} == {None}


def test_without_a_choice_nothing_is_drawn(evaluator: Evaluator) -> None:
    one = evaluate_params(guidance_scales=(1.5,), guidance_intervals=((0.2, 0.6),))
    many = evaluate_params(guidance_scales=SCALES)
    sampling, distances = choose_guidance(_model(1.5), SAMPLING, evaluator, one, None)
    assert (sampling, distances) == (guided(1.5, (0.2, 0.6)), {})
    sampling, distances = choose_guidance(_model(1.5, names=None), SAMPLING, evaluator, many, None)
    assert (sampling.guidance_scale, distances) == (1.0, {})


def test_an_interval_is_tried_above_the_best_scale_and_taken_where_it_is_better_or_cheaper(
    evaluator: Evaluator,
) -> None:
    params = evaluate_params(guidance_scales=SCALES, guidance_intervals=INTERVALS, guidance_images=100)
    sampling, measured = choose_guidance(_model(1.25), SAMPLING, evaluator, params, None)
    tried = [(each.guidance_scale, each.guidance_interval) for each in measured]
    assert tried[:3] == [(1.0, ALL_STEPS), (1.25, ALL_STEPS), (1.5, ALL_STEPS)]
    assert tried[3:5] == [(1.5, (0.3, 0.7)), (2.0, (0.3, 0.7))]
    assert sampling == best(measured, 0.0)


def test_an_interval_in_which_no_step_begins_is_no_guidance(evaluator: Evaluator) -> None:
    params = evaluate_params(guidance_scales=(1.5, 2.0), guidance_intervals=((0.01, 0.02),))
    assert choose_guidance(_model(1.5), SAMPLING, evaluator, params, None) == (guided(1.0), {})


@pytest.mark.parametrize(
    ("distances", "wanted"),
    [
        ({(1.0, ALL_STEPS): 4.0, (1.2, ALL_STEPS): 3.9}, (1.0, ALL_STEPS)),
        (
            {(1.0, ALL_STEPS): 4.0, (1.2, ALL_STEPS): 3.7, (1.4, ALL_STEPS): 3.6, (2.0, ALL_STEPS): 5.0},
            (1.4, ALL_STEPS),
        ),
        ({(1.0, ALL_STEPS): 4.0, (1.2, ALL_STEPS): 4.1}, (1.0, ALL_STEPS)),
        ({(1.2, ALL_STEPS): 4.0, (1.4, ALL_STEPS): 3.9}, (1.4, ALL_STEPS)),
        ({(0.5, ALL_STEPS): 4.1, (1.0, ALL_STEPS): 4.0}, (1.0, ALL_STEPS)),
        ({(1.0, ALL_STEPS): 4.0, (1.2, ALL_STEPS): 3.0, (1.4, (0.3, 0.7)): 3.1}, (1.4, (0.3, 0.7))),
        ({(1.0, ALL_STEPS): 4.0, (1.2, ALL_STEPS): 3.0, (1.4, (0.3, 0.7)): 3.5}, (1.2, ALL_STEPS)),
        ({(1.0, ALL_STEPS): 3.1, (1.2, ALL_STEPS): 3.5, (1.4, (0.3, 0.7)): 3.0}, (1.0, ALL_STEPS)),
    ],
)
def test_rows_that_hardly_help_are_not_spent(
    distances: dict[tuple[float, Interval], float], wanted: tuple[float, Interval]
) -> None:
    measured = {guided(*key): Measured(distance=distance) for key, distance in distances.items()}
    assert best(measured, 0.0) == guided(*wanted)


@pytest.mark.parametrize(
    ("agreement", "wanted"),
    [
        (0.5, (1.5, (0.3, 0.7))),
        (0.6, (2.0, ALL_STEPS)),
        # Recognised classes may cost 15 % of the distance.
        (0.65, (3.0, ALL_STEPS)),
        # As often as in any that is near enough: 4.0 is not.
        (0.95, (3.0, ALL_STEPS)),
        (0.0, (1.5, (0.3, 0.7))),
    ],
)
def test_classes_are_recognised_as_often_as_wanted_unless_that_is_too_far_away(
    agreement: float, wanted: tuple[float, Interval]
) -> None:
    measured = {
        guided(1.5): Measured(distance=100.0, class_agreement=0.52),
        guided(2.0): Measured(distance=101.0, class_agreement=0.61),
        guided(3.0): Measured(distance=114.0, class_agreement=0.70),
        guided(4.0): Measured(distance=120.0, class_agreement=0.78),
        guided(1.5, (0.3, 0.7)): Measured(distance=103.0, class_agreement=0.51),
    }
    assert best(measured, agreement) == guided(*wanted)


def test_of_those_whose_classes_are_recognised_the_cheapest_is_within_a_twentieth_of_their_own_least_distance() -> None:
    measured = {
        guided(1.5): Measured(distance=115.0, class_agreement=0.65),
        guided(2.0): Measured(distance=112.0, class_agreement=0.71),
        guided(3.0, (0.3, 0.7)): Measured(distance=107.0, class_agreement=0.58),
        guided(4.0, (0.3, 0.7)): Measured(distance=100.0, class_agreement=0.60),
    }
    assert best(measured, 0.61) == guided(2.0)
    assert best(measured, 0.60) == guided(4.0, (0.3, 0.7))


def test_the_share_of_recognised_images_is_measured_where_the_extractor_knows_classes(evaluator: Evaluator) -> None:
    real = evaluator.real
    config = ExtractorConfig(kind="classifier", image_size=8, channels=1, num_classes=len(NAMES))
    extractor = make_extractor(config, features_params(), real)
    classifier = Evaluator(extractor, real, extractor.features(real))
    params = evaluate_params(guidance_scales=(1.0, 3.0), guidance_intervals=(ALL_STEPS,), guidance_images=60)
    _, measured = choose_guidance(_model(1.0), SAMPLING, classifier, params, 1.0)
    assert measured[guided(1.0)].class_agreement == 1
