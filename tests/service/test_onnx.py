"""ONNX Runtime behind the same stepper: the same promises."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.diffusion.artefact import load_model
from pipeline.diffusion.errors import FoundryError
from pipeline.packaging.portable import write_onnx
from service.job import Job, Recipe, Terms
from service.onnx import OnnxDenoiser
from service.stepper import Stepper

RECIPE = Recipe(seed=5, class_label=1, sampler="ddpm", num_steps=6, guidance_scale=2.0)


@pytest.fixture(scope="module")
def exported(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "denoiser.onnx"
    write_onnx(load_model(model_folder), path)
    return path


def _stepper(folder: Path, onnx: Path | None) -> Stepper:
    return Stepper.load(folder, rows=8, slots=16, max_mib=1, threads=torch.get_num_threads(), onnx=onnx)


def test_pictures_are_torchs_but_for_rounding_and_their_repro_id_tells(model_folder: Path, exported: Path) -> None:
    by_onnx, by_torch = _stepper(model_folder, exported), _stepper(model_folder, None)
    difference = by_onnx.draw(RECIPE).astype(int) - by_torch.draw(RECIPE)
    assert np.abs(difference).max() <= 1
    assert by_onnx.repro_id != by_torch.repro_id


def test_a_picture_has_the_same_bits_alone_and_in_company(model_folder: Path, exported: Path) -> None:
    stepper = _stepper(model_folder, exported)
    recipes = [RECIPE, *(replace(RECIPE, seed=seed, guidance_scale=1.0, sampler="ddim") for seed in range(4))]
    jobs = [Job(recipe=recipe, terms=Terms(request_id="r", owner="o")) for recipe in recipes]
    for job in jobs:
        stepper.enter(job)
    for _ in range(RECIPE.num_steps):
        stepper.step(jobs)
        for job in jobs:
            job.step += 1
    together = [stepper.image(job) for job in jobs]
    for job in jobs:
        stepper.leave(job)
    assert all(np.array_equal(stepper.draw(recipe), image) for recipe, image in zip(recipes, together, strict=True))


def test_another_models_export_is_refused(broken_folder: Path, exported: Path) -> None:
    with pytest.raises(FoundryError, match=r"denoiser\.onnx: made of model \w+, this is \w+"):
        OnnxDenoiser(exported, load_model(broken_folder), threads=1)


def test_a_file_that_is_no_model_is_refused(model_folder: Path, tmp_path: Path) -> None:
    model, path = load_model(model_folder), tmp_path / "x.onnx"
    with pytest.raises(FoundryError, match=r"x\.onnx: No such file"):
        OnnxDenoiser(path, model, threads=1)
    path.write_bytes(b"no model")
    with pytest.raises(FoundryError, match=r"x\.onnx: not a model of ONNX"):
        OnnxDenoiser(path, model, threads=1)
