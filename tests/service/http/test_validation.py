from pathlib import Path
from typing import Any

import pytest

from pipeline.artefacts.model import Model, load_model
from pipeline.diffusion.seeds import image_seed
from service.engine.request import Order
from service.errors import InvalidRequestError
from service.http.schemas import GenerationRequest
from service.http.validation import order_for
from service.settings import Settings


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Model:
    return load_model(model_folder)


def _order(model: Model, settings: Settings | None = None, **fields: Any) -> Order:
    request = GenerationRequest(**fields)
    return order_for(request, model, settings or Settings(), request_id="r", owner="o")


def test_every_image_has_a_seed_of_its_own(model: Model) -> None:
    order = _order(model, n=3, seed=5)
    assert [recipe.seed for recipe in order.recipes] == [5, image_seed(5, 1), image_seed(5, 2)]


def test_terms_are_taken_over(model: Model) -> None:
    order = _order(model, deadline_ms=1500, priority=-3, determinism="fast", stream=True, partial_images=2)
    assert (order.deadline_sec, order.priority, order.is_exact, order.num_previews) == (1.5, -3, False, 2)


def test_guidance_is_the_models_unless_there_is_no_class(model: Model) -> None:
    assert _order(model).recipes[0].guidance_scale == 1.0
    assert _order(model, class_label=1, guidance_scale=0).recipes[0].guidance_scale == 0.0
    assert _order(model, guidance_scale=1).recipes[0].guidance_scale == 1.0


def test_work_is_bounded_by_images_steps_and_guidance_together(model: Model) -> None:
    settings = Settings(max_request_row_steps=40)
    _order(model, settings, n=4, steps=10)
    with pytest.raises(InvalidRequestError, match=r"at most 40 \(got 80\)"):
        _order(model, settings, n=4, steps=10, class_label=0, guidance_scale=2.0)


def test_work_that_never_fits_the_queue_is_refused_for_good(model: Model) -> None:
    settings = Settings(max_open_row_steps=100, api_keys="a,b")
    _order(model, settings, n=5, steps=10)
    with pytest.raises(InvalidRequestError, match=r"at most 50 \(got 60\)"):
        _order(model, settings, n=6, steps=10)


def test_a_model_without_classes_knows_none(classless_folder: Path) -> None:
    model = load_model(classless_folder)
    assert _order(model).recipes[0].class_label is None
    for fields in ({"class_label": 0}, {"prompt": "dog"}):
        with pytest.raises(InvalidRequestError, match="the model knows no classes"):
            _order(model, **fields)


def test_the_models_steps_fit_its_noise_levels(model: Model) -> None:
    assert _order(model).recipes[0].num_steps == 10
    with pytest.raises(InvalidRequestError, match="at most 100"):
        _order(model, steps=101)
