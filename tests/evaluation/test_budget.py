import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.artefacts.dataset import DatasetInfo
from pipeline.evaluation.budget import LEAST_IMAGES, LEAST_SAMPLES, fitted
from tests.small_sets import PARAMS

FULL = PARAMS.evaluate.model_copy(
    update={
        "num_samples": 2000,
        "guidance_images": 500,
        "compared_images": 1000,
        "tuning_rows": 20_000,
        "baseline_components": 300,
    }
)


def info(num_images: int, image_size: int = 28) -> DatasetInfo:
    held_out = num_images // 10
    return DatasetInfo(
        image_size=image_size,
        channels=3,
        class_names=None,
        num_train=num_images - held_out,
        num_held_out=held_out,
        digest="0" * 64,
    )


def test_a_large_set_of_small_images_is_measured_as_params_ask() -> None:
    assert fitted(FULL, info(70_000)) == FULL


def test_a_small_set_gets_as_many_samples_as_it_has_images() -> None:
    found = fitted(FULL, info(1000))
    assert (found.num_samples, found.guidance_images, found.compared_images) == (1000, 250, 500)
    assert (found.tuning_rows, found.baseline_components) == (10_000, 18)


def test_large_images_get_fewer_samples_and_as_much_work_for_the_sampling_times() -> None:
    found = fitted(FULL, info(70_000, image_size=64))
    assert (found.num_samples, found.tuning_rows) == (1000, 5000)
    assert fitted(FULL, info(70_000, image_size=256)).num_samples == LEAST_SAMPLES


@pytest.mark.parametrize("name", ["guidance_images", "compared_images", "likelihood_num_images"])
@given(st.integers(100, 10**6), st.integers(4, 512))
def test_no_number_exceeds_the_params_or_falls_below_the_least(name: str, num_images: int, side: int) -> None:
    asked, found = getattr(FULL, name), getattr(fitted(FULL, info(num_images, side)), name)
    assert min(asked, LEAST_IMAGES) <= found <= asked
