"""ONNX Runtime as the stepper's backend: the same promises."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from pipeline.artefacts.model import ONNX, Model, load_model
from pipeline.artefacts.passport import read
from pipeline.errors import FoundryError
from pipeline.export import bundle
from pipeline.export.onnx import write_onnx
from service.engine.onnx import OnnxDenoiser
from service.engine.request import Request, SamplingParams
from service.engine.stepper import Stepper
from service.settings import Settings
from tests.service.server import serving

PARAMS = SamplingParams(seed=5, class_label=1, sampler="ddpm", num_steps=6, guidance_scale=2.0)


@pytest.fixture(scope="module")
def folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with its file for ONNX Runtime."""
    folder = Path(shutil.copytree(model_folder, tmp_path_factory.mktemp("onnx") / "model"))
    write_onnx(load_model(folder), folder / ONNX)
    return folder


@pytest.fixture
def model(folder: Path) -> Model:
    return load_model(folder)


def _stepper(folder: Path, **options: str) -> Stepper:
    return Stepper.load(folder, rows=8, slots=16, max_mib=1, threads=torch.get_num_threads(), **options)  # type: ignore[arg-type]


def test_the_pipeline_writes_the_file_that_the_service_reads() -> None:
    assert bundle.ONNX == ONNX


def test_images_equal_torchs_up_to_rounding_and_have_another_repro_id(folder: Path) -> None:
    by_onnx, by_torch = _stepper(folder), _stepper(folder, backend="torch")
    assert by_onnx.repro_id == _stepper(folder, backend="onnxruntime").repro_id != by_torch.repro_id
    difference = by_onnx.draw(PARAMS).astype(int) - by_torch.draw(PARAMS)
    assert np.abs(difference).max() <= 1


def test_a_folder_without_the_file_is_served_by_torch(model_folder: Path) -> None:
    assert _stepper(model_folder).repro_id == _stepper(model_folder, backend="torch").repro_id
    with pytest.raises(FoundryError, match=r"denoiser\.onnx: No such file"):
        _stepper(model_folder, backend="onnxruntime")


def test_an_image_has_the_same_bits_alone_and_with_others(folder: Path) -> None:
    stepper = _stepper(folder)
    images = (PARAMS, *(replace(PARAMS, seed=seed, guidance_scale=1.0, sampler="ddim") for seed in range(4)))
    jobs = Request(request_id="r", owner="o", images=images).jobs
    for job in jobs:
        stepper.enter(job)
    for _ in range(PARAMS.num_steps):
        stepper.step(jobs)
        for job in jobs:
            job.step += 1
    together = [stepper.image(job) for job in jobs]
    for job in jobs:
        stepper.leave(job)
    assert all(np.array_equal(stepper.draw(params), image) for params, image in zip(images, together, strict=True))


def test_a_row_that_is_not_finite_is_detected_and_affects_no_other(folder: Path, model: Model) -> None:
    denoiser = OnnxDenoiser(folder / ONNX, model, threads=1)
    x, t, labels = torch.zeros(3, 1, 8, 8), torch.tensor([50, 50, 50]), torch.tensor([0, 1, 2])
    clean = denoiser(x, t, labels)
    x[1, 0, 3, 3] = torch.inf
    output = denoiser(x, t, labels)
    assert output.sum(dim=(1, 2, 3)).isfinite().tolist() == [True, False, True]
    assert torch.equal(output[[0, 2]], clean[[0, 2]])


def test_another_models_file_is_refused(broken_folder: Path, folder: Path) -> None:
    with pytest.raises(FoundryError, match=r"denoiser\.onnx: exported from model \w+, but the folder holds \w+"):
        OnnxDenoiser(folder / ONNX, load_model(broken_folder), threads=1)


def test_a_file_with_the_right_digest_and_wrong_weights_is_refused(folder: Path, model: Model, tmp_path: Path) -> None:
    graph = onnx.load(folder / ONNX)
    weights = max(graph.graph.initializer, key=lambda weights: len(weights.raw_data))
    weights.raw_data = bytes(len(weights.raw_data))
    onnx.save(graph, tmp_path / "changed.onnx")
    with pytest.raises(FoundryError, match=r"changed\.onnx: its output differs from the model's"):
        OnnxDenoiser(tmp_path / "changed.onnx", model, threads=1)


def test_a_missing_file_and_one_that_is_no_model_are_refused(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    with pytest.raises(FoundryError, match=r"x\.onnx: No such file"):
        OnnxDenoiser(path, model, threads=1)
    path.write_bytes(b"no model")
    with pytest.raises(FoundryError, match=r"x\.onnx: not an ONNX model"):
        OnnxDenoiser(path, model, threads=1)


def test_the_service_uses_the_file_and_another_process_draws_the_same_image(folder: Path, tmp_path: Path) -> None:
    body = {"seed": 5, "class_label": 1, "sampler": "ddpm", "steps": 6, "guidance_scale": 2.0}
    with serving(folder, tmp_path) as server:
        drawn = read(server.post(**body, response_format="png").content, None)
    settings = Settings()
    here = Stepper.load(folder, rows=settings.rows, slots=16, max_mib=1, threads=settings.threads)
    assert drawn.passport.repro_id == here.repro_id
    assert np.array_equal(drawn.image, here.draw(PARAMS))
