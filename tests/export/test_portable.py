"""Every form is loaded by the program that it is for and held to our own sampler."""

import json
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.artefacts.model import (
    DataSpec,
    Description,
    Model,
    SamplingDefaults,
    build_network,
    load_model,
    plan_for,
    save_model,
)
from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.sampling import sample
from pipeline.diffusion.unet import UNetConfig
from pipeline.errors import FoundryError
from pipeline.export import portable
from tests.command_line import foundry

SCHEDULE = NoiseSchedule(cosine_betas(50))
DESCRIPTION = Description(
    data=DataSpec(image_size=8, channels=1, class_names=("cat", "dog"), sigma_data=0.5),
    network=UNetConfig(widths=(8,), num_blocks=1, attention=True),
    target="v",
    sampling=SamplingDefaults(sampler="dpmpp_2m", num_steps=5, guidance_scale=1.0),
    timetables={"ddim": {"3": (49, 20, 3)}},
)
UNCONDITIONAL = replace(
    DESCRIPTION,
    data=replace(DESCRIPTION.data, class_names=None, channels=3),
    network=UNetConfig(widths=(8,), num_blocks=1),
    target="x0",
)


def _save(folder: Path, description: Description) -> Path:
    # A new network predicts 0 everywhere, which any export would get right.
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: weight + 0.1 * torch.randn(weight.shape, generator=generator)
        for name, weight in build_network(description, seed=0).state_dict().items()
    }
    save_model(folder, description, weights=weights, schedule=SCHEDULE)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(tmp_path_factory.mktemp("model"), DESCRIPTION)


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load_model(folder)


def _export(to: str, model: Path, out: Path) -> None:
    foundry("model", "export", "--to", to, "--model", model, "--out", out)


@pytest.fixture(scope="module")
def onnx_file(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("onnx") / "model.onnx"
    _export("onnx", folder, out)
    return out


def _session(path: Path) -> Any:  # onnxruntime has no types
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_onnx_denoises_as_the_model_does_for_any_number_of_rows(onnx_file: Path, model: Model) -> None:
    session, generator = _session(onnx_file), torch.Generator().manual_seed(1)
    denoiser = model.denoiser()
    for rows in (1, 2, 7):
        x = torch.randn(rows, 1, 8, 8, generator=generator)
        t = torch.randint(50, (rows,), generator=generator)
        labels = torch.randint(3, (rows,), generator=generator)
        (found,) = session.run(None, {"x": x.numpy(), "t": t.numpy(), "labels": labels.numpy()})
        np.testing.assert_allclose(found, denoiser(x, t, labels).numpy(), atol=1e-4)


def test_an_onnx_file_is_enough_to_draw_as_the_model_does(onnx_file: Path, model: Model) -> None:
    session = _session(onnx_file)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["foundry"])
    assert facts["model_digest"] == model.digest
    x = np.random.Generator(np.random.PCG64(7)).standard_normal((1, 1, 8, 8), dtype=np.float32)
    prev = np.zeros_like(x)
    for t, (A, B, C, D) in zip(facts["times"], facts["coefficients"], strict=True):
        assert D == 0
        inputs = {"x": x, "t": np.array([t]), "labels": np.array([1])}
        denoised = np.clip(session.run(None, inputs)[0], -1, 1)
        x, prev = np.float32(A) * x + np.float32(B) * denoised + np.float32(C) * prev, denoised
    np.testing.assert_allclose(x, _drawn(model, "dpmpp_2m", 5, [7], [1]).numpy(), atol=1e-4)


def test_exports_name_no_path_of_this_machine(onnx_file: Path) -> None:
    here = str(Path(portable.__file__).parent).encode()
    assert here not in onnx_file.read_bytes()


def test_a_torch_export_program_denoises_as_the_model_does_and_holds_no_pickle(tmp_path: Path) -> None:
    folder, out = _save(tmp_path / "model", UNCONDITIONAL), tmp_path / "model.pt2"
    _export("torch-export", folder, out)
    model = load_model(folder)
    program = torch.export.load(out).module()
    denoiser = model.denoiser()
    x, t = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 30, 49])
    torch.testing.assert_close(program(x, t), denoiser(x, t, None), atol=1e-4, rtol=0)
    with zipfile.ZipFile(out) as archive:
        assert all(not archive.read(name).startswith(b"\x80") for name in archive.namelist() if name.endswith(".pt"))
        assert not any(
            str(Path(portable.__file__).parent).encode() in archive.read(name) for name in archive.namelist()
        )


@pytest.fixture(scope="module")
def pipeline(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:  # diffusers has no types
    home = tmp_path_factory.mktemp("diffusers")
    _export("diffusers", folder, home / "exported")
    from diffusers import DiffusionPipeline
    from diffusers.utils import dynamic_modules_utils

    with pytest.MonkeyPatch.context() as patch:
        # diffusers copies an exported folder's code there before it runs it.
        patch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(home / "modules"))
        patch.setattr(sys, "path", list(sys.path))
        loaded = DiffusionPipeline.from_pretrained(
            home / "exported", trust_remote_code=True, low_cpu_mem_usage=False, local_files_only=True
        )
        loaded.set_progress_bar_config(disable=True)
        yield loaded


def _drawn(
    model: Model, sampler: str, num_steps: int, seeds: list[int], labels: list[int], **options: float
) -> torch.Tensor:
    return sample(
        model.denoiser(),
        plan_for(model, sampler, num_steps, eta=options.get("eta", 0.0)),  # type: ignore[arg-type]  # one of SAMPLERS
        seeds,
        torch.tensor(labels),
        model.description.data.shape,
        guidance_scale=options.get("guidance_scale", 1.0),
        null_label=model.null_label,
    )


@pytest.mark.parametrize(
    ("sampler", "num_steps", "options"),
    [
        ("ddim", 3, {}),
        ("ddim", 7, {"eta": 0.5}),
        ("ddpm", 50, {}),
        ("dpmpp_2m", 1, {}),
        ("dpmpp_2m", 6, {"guidance_scale": 3.0}),
    ],
)
def test_diffusers_draws_as_our_sampler_does(
    pipeline: Any, model: Model, sampler: str, num_steps: int, options: dict[str, float]
) -> None:
    found = pipeline([0, 1], [5, 6], sampler=sampler, num_inference_steps=num_steps, output_type="pt", **options).images
    torch.testing.assert_close(found, _drawn(model, sampler, num_steps, [5, 6], [0, 1], **options), atol=1e-4, rtol=0)


def test_without_a_class_diffusers_draws_the_null_class(pipeline: Any, model: Model) -> None:
    found = pipeline(seeds=[5], output_type="pt").images
    torch.testing.assert_close(found, _drawn(model, "dpmpp_2m", 5, [5], [2]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"class_labels": [2]}, "class_labels: should be one a seed, each in 0 … 1"),
        ({"class_labels": [0, 1]}, "class_labels: should be one a seed"),
        ({"num_inference_steps": 51}, "num_inference_steps: should be in 1 … 50"),
        ({"sampler": "ddpm", "eta": 0.5}, "eta in 0 … 1 for ddim"),
        ({"guidance_scale": 2.0}, "guidance_scale: should be 1 for images without a class"),
    ],
)
def test_the_exported_pipeline_refuses_what_our_sampler_would(
    pipeline: Any, asked: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline(seeds=[1], **asked)


def test_the_exported_code_needs_nothing_of_this_project(pipeline: Any) -> None:
    for module in (type(pipeline).__module__, type(pipeline.unet).__module__):
        source = Path(str(sys.modules[module].__file__)).read_text()
        assert "from pipeline" not in source
        assert "jaxtyping import" not in source


def test_an_export_that_differs_from_the_model_is_refused_and_leaves_nothing(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portable, "sample", lambda *asked: sample(*asked) + 2e-4)
    with pytest.raises(FoundryError, match=r"the export differs from the model by 2\.\de-04"):
        portable.write_diffusers(model, tmp_path / "exported")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_traced_is_refused_with_the_reason(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(_: object, x: torch.Tensor, *_rest: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x

    monkeypatch.setattr(portable.PortableDenoiser, "forward", forward)
    with pytest.raises(FoundryError, match="cannot be written in this form"):
        portable.write_torch_export(model, tmp_path / "model.pt2")


def test_a_wrong_suffix_or_a_folder_that_is_there_is_refused_before_any_work(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FoundryError, match=r"--out: should end in .onnx \(got .*model.pt\)"):
        _export("onnx", folder, tmp_path / "model.pt")
    with pytest.raises(FoundryError, match="is there already"):
        _export("diffusers", folder, tmp_path)


def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(FoundryError, match=r"--to diffusers: needs the export extra \(diffusers is missing\)"):
        _export("diffusers", folder, tmp_path / "exported")
    assert list(tmp_path.iterdir()) == []
