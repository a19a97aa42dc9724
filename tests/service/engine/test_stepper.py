import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.artefacts.model import Model, load_model, plan_for
from pipeline.diffusion.images import to_bytes
from pipeline.diffusion.sampling import sample
from pipeline.errors import FoundryError
from service.engine.backend import Backend
from service.engine.batch_sizes import Batches, try_batches
from service.engine.job import Job, SamplingParams, SchedulingParams
from service.engine.stepper import Stepper
from tests.fakes import elementwise_denoiser

CPU = torch.device("cpu")
FAKE = Backend("fake", elementwise_denoiser, CPU)
ROWS = 8
RECIPES = [
    SamplingParams(seed=11, class_label=0, sampler="dpmpp_2m", num_steps=7),
    SamplingParams(seed=12, class_label=1, sampler="ddpm", num_steps=9, guidance_scale=3.0),
    SamplingParams(seed=13, class_label=None, sampler="ddim", num_steps=3),
    SamplingParams(seed=14, class_label=2, sampler="ddim", num_steps=5, eta=0.7, guidance_scale=1.5),
    SamplingParams(seed=15, class_label=2, sampler="ddim", num_steps=1),
    SamplingParams(seed=2**63 - 1, class_label=0, sampler="ddpm", num_steps=20),
    SamplingParams(seed=0, class_label=0, sampler="dpmpp_2m", num_steps=12, guidance_scale=0.0),
]


def _job(recipe: SamplingParams, *, is_exact: bool = True) -> Job:
    return Job(recipe=recipe, terms=SchedulingParams(request_id="r", owner="o", is_exact=is_exact))


def _stepper(model: Model) -> Stepper:
    backend = Backend("torch", model.denoiser(), CPU)
    return Stepper(model, backend, try_batches(model, backend.denoiser, ROWS, CPU), slots=16)


@pytest.fixture(scope="module")
def stepper(model_folder: Path) -> Stepper:
    return _stepper(load_model(model_folder))


def _draw_in_traffic(stepper: Stepper, recipes: Sequence[SamplingParams], seed: int) -> list[bytes]:
    """Every recipe's image, while all of them and others come and are stepped in a random order."""
    order = random.Random(seed)  # noqa: S311, traffic
    others = [replace(recipe, seed=100 + i) for i, recipe in enumerate(order.sample(RECIPES, 4))]
    waiting = [_job(recipe) for recipe in [*recipes, *others]]
    wanted, images = list(waiting[: len(recipes)]), {}
    order.shuffle(waiting)
    running: list[Job] = []
    while waiting or running:
        if waiting and (not running or order.random() < 0.5):
            stepper.enter(waiting[-1])
            running.append(waiting.pop())
        chosen, room = [], order.randint(2, ROWS)
        for job in order.sample(running, len(running)):
            if job.rows <= room:
                chosen.append(job)
                room -= job.rows
        assert stepper.step(chosen).finite == [True] * len(chosen)
        for job in chosen:
            job.step += 1
            if not job.steps_left:
                images[job] = stepper.image(job).tobytes()
                stepper.leave(job)
                running.remove(job)
    return [images[job] for job in wanted]


def test_a_picture_has_the_same_bits_alone_and_in_any_traffic(stepper: Stepper, model_folder: Path) -> None:
    alone = [stepper.draw(recipe).tobytes() for recipe in RECIPES]
    assert len(set(alone)) == len(RECIPES)
    for seed in range(3):
        assert _draw_in_traffic(stepper, RECIPES, seed) == alone
    again = _stepper(load_model(model_folder))
    assert [again.draw(recipe).tobytes() for recipe in RECIPES] == alone


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_the_service_draws_what_the_offline_sampler_draws(stepper: Stepper, recipe: SamplingParams) -> None:
    model = stepper.model
    denoiser = model.denoiser()
    label = 3 if recipe.class_label is None else recipe.class_label
    count = ROWS // recipe.rows
    images = sample(
        denoiser,
        plan_for(model, recipe.sampler, recipe.num_steps, eta=recipe.eta),
        [recipe.seed] * count,
        torch.full((count,), label),
        model.description.data.shape,
        guidance_scale=recipe.guidance_scale,
        null_label=model.null_label,
    )
    wanted = to_bytes(images[0]).permute(1, 2, 0).numpy()
    assert np.array_equal(stepper.draw(recipe), wanted)


def test_rows_share_calls_whatever_they_ask_for(model_folder: Path) -> None:
    calls: list[int] = []

    def counted(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        calls.append(len(x))
        return elementwise_denoiser(x, t, labels)

    model = load_model(model_folder)
    stepper = Stepper(model, Backend("fake", counted, CPU), Batches(exact=(4, 8), call_sec={}), slots=4)
    jobs = [_job(RECIPES[0]), _job(RECIPES[1]), _job(RECIPES[3])]
    for job in jobs:
        stepper.enter(job)
    assert stepper.step(jobs).batch_size == 8
    assert stepper.step(jobs[:1]).batch_size == 4
    assert calls == [8, 4]


def test_fast_rows_are_not_filled_up_unless_an_exact_one_is_among_them(model_folder: Path) -> None:
    model = load_model(model_folder)
    stepper = Stepper(model, FAKE, Batches(exact=(8,), call_sec={}), slots=4)
    fast, exact = _job(RECIPES[0], is_exact=False), _job(RECIPES[1])
    stepper.enter(fast)
    stepper.enter(exact)
    assert stepper.step([fast]).batch_size == 1
    assert stepper.step([fast, exact]).batch_size == 8


def test_a_row_that_is_not_finite_harms_neither_its_neighbours_nor_the_next_in_its_slot(broken_folder: Path) -> None:
    stepper = _stepper(load_model(broken_folder))
    good, bad = (
        SamplingParams(seed=1, class_label=0, sampler="ddim", num_steps=4),
        SamplingParams(seed=1, class_label=1, sampler="ddim", num_steps=4),
    )
    alone = stepper.draw(good)
    pair = [_job(good), _job(bad)]
    for job in pair:
        stepper.enter(job)
    while pair[0].steps_left:
        assert stepper.step(pair).finite == [True, False]
        for job in pair:
            job.step += 1
    assert np.array_equal(stepper.image(pair[0]), alone)
    for job in pair:
        stepper.leave(job)
    after = [_job(good) for _ in range(stepper.num_free)]
    for job in after:
        stepper.enter(job)
    while after[0].steps_left:
        assert all(stepper.step(after[:ROWS]).finite)
        for job in after[:ROWS]:
            job.step += 1
    assert all(np.array_equal(stepper.image(job), alone) for job in after[:ROWS])


def test_a_preview_is_the_estimate_of_the_clean_image(stepper: Stepper) -> None:
    job = _job(RECIPES[2])
    stepper.enter(job)
    stepper.step([job])
    assert not np.array_equal(stepper.preview(job), stepper.image(job))
    for job.step in (1, 2):
        stepper.step([job])
    # The last step's result is its estimate.
    assert np.array_equal(stepper.preview(job), stepper.image(job))
    stepper.leave(job)


def test_slots_come_back(stepper: Stepper) -> None:
    free = stepper.num_free
    job = _job(RECIPES[0])
    stepper.enter(job)
    assert stepper.num_free == free - 1
    stepper.leave(job)
    stepper.leave(job)
    assert stepper.num_free == free


def test_a_recipe_for_more_steps_than_there_are_noise_levels_takes_no_slot(stepper: Stepper) -> None:
    free = stepper.num_free
    with pytest.raises(FoundryError, match="1 … 100"):
        stepper.enter(_job(replace(RECIPES[0], num_steps=101)))
    assert stepper.num_free == free


def test_a_model_without_classes_is_drawn_without(classless_folder: Path) -> None:
    stepper = _stepper(load_model(classless_folder))
    image = stepper.draw(SamplingParams(seed=1, class_label=None, sampler="ddpm", num_steps=5))
    assert image.shape == (8, 8, 1)
    assert image.dtype == np.uint8


def test_loading_tries_batches_and_names_what_the_bits_depend_on(model_folder: Path) -> None:
    threads = torch.get_num_threads()
    loaded = Stepper.load(model_folder, rows=4, slots=9, max_mib=1, threads=threads)
    again = Stepper.load(model_folder, rows=4, slots=9, max_mib=1, threads=threads)
    assert loaded.batches.exact[-1] == 4
    assert loaded.num_slots == 9
    assert loaded.repro_id == again.repro_id
    assert loaded.repro_id != Stepper(loaded.model, FAKE, loaded.batches, slots=1).repro_id
