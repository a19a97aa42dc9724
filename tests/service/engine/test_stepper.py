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
from service.engine.batch_sizes import BatchSizes, measure_batch_sizes
from service.engine.request import Job, Request, SamplingParams
from service.engine.stepper import Stepper
from tests.fakes import elementwise_denoiser

CPU = torch.device("cpu")
FAKE = Backend("fake", elementwise_denoiser, CPU)
ROWS = 8
IMAGES = [
    SamplingParams(seed=11, class_label=0, sampler="dpmpp_2m", num_steps=7),
    SamplingParams(seed=12, class_label=1, sampler="ddpm", num_steps=9, guidance_scale=3.0),
    SamplingParams(seed=13, class_label=None, sampler="ddim", num_steps=3),
    SamplingParams(seed=14, class_label=2, sampler="ddim", num_steps=5, eta=0.7, guidance_scale=1.5),
    SamplingParams(seed=15, class_label=2, sampler="ddim", num_steps=1),
    SamplingParams(seed=2**63 - 1, class_label=0, sampler="ddpm", num_steps=20),
    SamplingParams(seed=0, class_label=0, sampler="dpmpp_2m", num_steps=12, guidance_scale=0.0),
    SamplingParams(
        seed=3, class_label=1, sampler="dpmpp_2m", num_steps=8, guidance_scale=4.0, guidance_interval=(0.25, 0.7)
    ),
]


def _job(params: SamplingParams, *, is_exact: bool = True) -> Job:
    return Request(request_id="r", owner="o", images=(params,), is_exact=is_exact).jobs[0]


def _stepper(model: Model) -> Stepper:
    backend = Backend("torch", model.denoiser(), CPU)
    return Stepper(model, backend, measure_batch_sizes(model, backend.denoiser, ROWS, CPU), slots=16)


@pytest.fixture(scope="module")
def stepper(model_folder: Path) -> Stepper:
    return _stepper(load_model(model_folder))


def _draw_in_traffic(stepper: Stepper, images: Sequence[SamplingParams], seed: int) -> list[bytes]:
    """The pixels of these images, while they and others enter and get their steps in random turns."""
    traffic = random.Random(seed)  # noqa: S311, traffic
    others = [replace(params, seed=100 + i) for i, params in enumerate(traffic.sample(IMAGES, 4))]
    waiting = [_job(params) for params in [*images, *others]]
    drawn, pixels = list(waiting[: len(images)]), {}
    traffic.shuffle(waiting)
    running: list[Job] = []
    while waiting or running:
        if waiting and (not running or traffic.random() < 0.5):
            stepper.enter(waiting[-1])
            running.append(waiting.pop())
        chosen, room = [], traffic.randint(2, ROWS)
        for job in traffic.sample(running, len(running)):
            if job.rows <= room:
                chosen.append(job)
                room -= job.rows
        assert stepper.step(chosen).finite == [True] * len(chosen)
        for job in chosen:
            job.step += 1
            if not job.steps_left:
                pixels[job] = stepper.image(job).tobytes()
                stepper.leave(job)
                running.remove(job)
    return [pixels[job] for job in drawn]


def test_an_image_has_the_same_bits_alone_and_in_any_traffic(stepper: Stepper, model_folder: Path) -> None:
    alone = [stepper.draw(params).tobytes() for params in IMAGES]
    assert len(set(alone)) == len(IMAGES)
    for seed in range(3):
        assert _draw_in_traffic(stepper, IMAGES, seed) == alone
    again = _stepper(load_model(model_folder))
    assert [again.draw(params).tobytes() for params in IMAGES] == alone


@pytest.mark.parametrize("params", IMAGES, ids=str)
def test_the_service_draws_what_the_offline_sampler_draws(stepper: Stepper, params: SamplingParams) -> None:
    model = stepper.model
    denoiser = model.denoiser()
    label = 3 if params.class_label is None else params.class_label
    count = ROWS // (2 if params.guided_steps else 1)
    images = sample(
        denoiser,
        plan_for(
            model,
            params.sampler,
            params.num_steps,
            eta=params.eta,
            guidance_scale=params.guidance_scale,
            guidance_interval=params.guidance_interval,
        ),
        [params.seed] * count,
        torch.full((count,), label),
        model.description.data.shape,
        null_label=model.null_label,
    )
    wanted = to_bytes(images[0]).permute(1, 2, 0).numpy()
    assert np.array_equal(stepper.draw(params), wanted)


def test_rows_with_different_parameters_share_a_call(model_folder: Path) -> None:
    calls: list[int] = []

    def counted(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        calls.append(len(x))
        return elementwise_denoiser(x, t, labels)

    model = load_model(model_folder)
    stepper = Stepper(model, Backend("fake", counted, CPU), BatchSizes(exact=(4, 8), call_sec={}), slots=4)
    jobs = [_job(IMAGES[0]), _job(IMAGES[1]), _job(IMAGES[3])]
    for job in jobs:
        stepper.enter(job)
    assert stepper.step(jobs).batch_size == 8
    assert stepper.step(jobs[:1]).batch_size == 4
    assert calls == [8, 4]


def test_fast_batches_are_not_padded_unless_an_exact_row_is_among_them(model_folder: Path) -> None:
    model = load_model(model_folder)
    stepper = Stepper(model, FAKE, BatchSizes(exact=(8,), call_sec={}), slots=4)
    fast, exact = _job(IMAGES[0], is_exact=False), _job(IMAGES[1])
    stepper.enter(fast)
    stepper.enter(exact)
    assert stepper.step([fast]).batch_size == 1
    assert stepper.step([fast, exact]).batch_size == 8


def test_a_row_that_is_not_finite_affects_neither_other_rows_nor_the_next_image_in_its_slot(
    broken_folder: Path,
) -> None:
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
    after = [_job(good) for _ in stepper._free.copy()]
    for job in after:
        stepper.enter(job)
    while after[0].steps_left:
        assert all(stepper.step(after[:ROWS]).finite)
        for job in after[:ROWS]:
            job.step += 1
    assert all(np.array_equal(stepper.image(job), alone) for job in after[:ROWS])


def test_a_preview_is_the_estimate_of_the_clean_image(stepper: Stepper) -> None:
    job = _job(IMAGES[2])
    stepper.enter(job)
    stepper.step([job])
    assert not np.array_equal(stepper.preview(job), stepper.image(job))
    for job.step in (1, 2):
        stepper.step([job])
    # The result of the last step is its estimate.
    assert np.array_equal(stepper.preview(job), stepper.image(job))
    stepper.leave(job)


def test_leaving_frees_the_slot_once(stepper: Stepper) -> None:
    free = len(stepper._free)
    job = _job(IMAGES[0])
    stepper.enter(job)
    assert len(stepper._free) == free - 1
    stepper.leave(job)
    stepper.leave(job)
    assert len(stepper._free) == free


def test_more_steps_than_noise_levels_are_refused_without_taking_a_slot(stepper: Stepper) -> None:
    free = len(stepper._free)
    with pytest.raises(FoundryError, match="1 … 100"):
        stepper.enter(_job(replace(IMAGES[0], num_steps=101)))
    assert len(stepper._free) == free


def test_a_model_without_classes_draws_images(classless_folder: Path) -> None:
    stepper = _stepper(load_model(classless_folder))
    image = stepper.draw(SamplingParams(seed=1, class_label=None, sampler="ddpm", num_steps=5))
    assert image.shape == (8, 8, 1)
    assert image.dtype == np.uint8


def test_loading_measures_batch_sizes_and_computes_the_repro_id(model_folder: Path) -> None:
    threads = torch.get_num_threads()
    loaded = Stepper.load(model_folder, rows=4, slots=9, max_mib=1, threads=threads)
    again = Stepper.load(model_folder, rows=4, slots=9, max_mib=1, threads=threads)
    assert loaded.batch_sizes.exact[-1] == 4
    assert loaded.num_slots == 9
    assert loaded.repro_id == again.repro_id
    assert loaded.repro_id != Stepper(loaded.model, FAKE, loaded.batch_sizes, slots=1).repro_id
