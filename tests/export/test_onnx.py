"""The ONNX file in ONNX Runtime, compared with our own denoiser and sampler."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pipeline
from pipeline.artefacts.model import Model
from tests.export.models import draw, export


@pytest.fixture(scope="module")
def file(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export("onnx", folder, out)
    return out


def _session(path: Path) -> Any:  # onnxruntime is untyped
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_the_file_denoises_any_number_of_rows_as_the_model_does(file: Path, model: Model) -> None:
    session, generator = _session(file), torch.Generator().manual_seed(1)
    denoiser = model.denoiser()
    for rows in (1, 2, 7):
        x = torch.randn(rows, 1, 8, 8, generator=generator)
        t = torch.randint(50, (rows,), generator=generator)
        labels = torch.randint(3, (rows,), generator=generator)
        (found,) = session.run(None, {"x": x.numpy(), "t": t.numpy(), "labels": labels.numpy()})
        np.testing.assert_allclose(found, denoiser(x, t, labels).numpy(), atol=1e-4)


def test_the_file_alone_is_enough_to_draw_the_models_images(file: Path, model: Model) -> None:
    session = _session(file)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["foundry"])
    assert facts["model_digest"] == model.digest
    x = np.random.Generator(np.random.PCG64(7)).standard_normal((1, 1, 8, 8), dtype=np.float32)
    prev = np.zeros_like(x)
    for t, (A, B, C, D) in zip(facts["times"], facts["coefficients"], strict=True):
        assert D == 0
        inputs = {"x": x, "t": np.array([t]), "labels": np.array([1])}
        denoised = np.clip(session.run(None, inputs)[0], -1, 1)
        x, prev = np.float32(A) * x + np.float32(B) * denoised + np.float32(C) * prev, denoised
    np.testing.assert_allclose(x, draw(model, "dpmpp_2m", 5, [7], [1]).numpy(), atol=1e-4)


def test_the_file_contains_no_path_of_this_machine(file: Path) -> None:
    assert str(Path(pipeline.__file__).parent).encode() not in file.read_bytes()
