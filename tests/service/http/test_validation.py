from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.artefacts.model import Model, load_model
from pipeline.diffusion.guidance_interval import ALL_STEPS
from pipeline.diffusion.seeds import image_seed
from service.engine.request import Request
from service.errors import InvalidRequestError
from service.http.schemas import GenerationRequest
from service.http.validation import engine_request
from service.settings import Settings


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Model:
    return load_model(model_folder)


def _request(model: Model, settings: Settings | None = None, **fields: Any) -> Request:
    body = GenerationRequest(**fields)
    return engine_request(body, model, settings or Settings(), request_id="r", owner="o")


def test_every_image_has_its_own_seed(model: Model) -> None:
    request = _request(model, n=3, seed=5)
    assert [params.seed for params in request.images] == [5, image_seed(5, 1), image_seed(5, 2)]


def test_scheduling_fields_are_passed_on(model: Model) -> None:
    request = _request(model, deadline_ms=1500, priority=-3, determinism="fast", stream=True, partial_images=2)
    assert (request.deadline_sec, request.priority, request.is_exact, request.num_previews) == (1.5, -3, False, 2)


def test_the_default_guidance_is_the_models_or_1_without_a_class(model: Model) -> None:
    assert _request(model).images[0].guidance_scale == 1.0
    assert _request(model, class_label=1, guidance_scale=0).images[0].guidance_scale == 0.0
    assert _request(model, guidance_scale=1).images[0].guidance_scale == 1.0


def test_the_default_interval_of_guidance_is_the_models_where_there_is_guidance(model: Model) -> None:
    sampling = replace(model.description.sampling, guidance_scale=2.0, guidance_interval=(0.2, 0.5))
    guided = replace(model, description=replace(model.description, sampling=sampling))
    found = [
        _request(guided, **asked).images[0].guidance_interval
        for asked in ({"class_label": 1}, {"class_label": 1, "guidance_interval": [0.0, 1.0]}, {})
    ]
    assert found == [(0.2, 0.5), ALL_STEPS, ALL_STEPS]


def test_work_is_bounded_by_images_steps_and_guidance_together(model: Model) -> None:
    settings = Settings(max_request_row_steps=40)
    _request(model, settings, n=4, steps=10)
    with pytest.raises(InvalidRequestError, match=r"at most 40 \(got 80\)"):
        _request(model, settings, n=4, steps=10, class_label=0, guidance_scale=2.0)


def test_work_that_an_empty_queue_could_not_take_is_an_invalid_request(model: Model) -> None:
    settings = Settings(max_open_row_steps=100, api_keys="a,b")
    _request(model, settings, n=5, steps=10)
    with pytest.raises(InvalidRequestError, match=r"at most 50 \(got 60\)"):
        _request(model, settings, n=6, steps=10)


def test_more_images_than_an_empty_queue_takes_are_an_invalid_request(model: Model) -> None:
    settings = Settings(max_open_images=8, api_keys="a,b")
    _request(model, settings, n=4)
    with pytest.raises(InvalidRequestError, match=r"n: should be at most 4 for this service \(got 5\)"):
        _request(model, settings, n=5)


def test_a_model_without_classes_refuses_them(classless_folder: Path) -> None:
    model = load_model(classless_folder)
    assert _request(model).images[0].class_label is None
    for fields in ({"class_label": 0}, {"prompt": "dog"}):
        with pytest.raises(InvalidRequestError, match="the model has no classes"):
            _request(model, **fields)


def test_steps_are_at_most_the_models_noise_levels(model: Model) -> None:
    assert _request(model).images[0].num_steps == 10
    with pytest.raises(InvalidRequestError, match="at most 100"):
        _request(model, steps=101)
