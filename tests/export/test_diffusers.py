"""The folder for diffusers, loaded by diffusers and compared with our own sampler."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.artefacts.model import Model, load_model
from pipeline.diffusion import unet
from pipeline.diffusion.samplers import Sampler
from pipeline.diffusion.sampling import sample
from pipeline.errors import FoundryError
from pipeline.export import diffusers
from tests.export.models import WITH_CLASSES, draw, export, save


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("diffusers") / "exported"
    export("diffusers", folder, out)
    return out


@pytest.fixture(scope="module")
def pipeline(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:  # diffusers is untyped
    from diffusers import DiffusionPipeline
    from diffusers.utils import dynamic_modules_utils

    with pytest.MonkeyPatch.context() as patch:
        # diffusers copies an exported folder's code there before it runs it.
        patch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        patch.setattr(sys, "path", list(sys.path))
        loaded = DiffusionPipeline.from_pretrained(
            exported, trust_remote_code=True, low_cpu_mem_usage=False, local_files_only=True
        )
        loaded.set_progress_bar_config(disable=True)
        yield loaded


@pytest.mark.parametrize(
    ("sampler", "num_steps", "options"),
    [
        ("ddim", 3, {}),
        ("ddim", 7, {"eta": 0.5}),
        ("ddpm", 50, {}),
        ("dpmpp_2m", 1, {}),
        ("dpmpp_2m", 6, {"guidance_scale": 3.0}),
        ("dpmpp_2m", 6, {"guidance_scale": 3.0, "guidance_interval": (0.3, 0.7)}),
    ],
)
def test_the_pipeline_draws_as_our_sampler_does(
    pipeline: Any, model: Model, sampler: Sampler, num_steps: int, options: dict[str, Any]
) -> None:
    found = pipeline([0, 1], [5, 6], sampler=sampler, num_inference_steps=num_steps, output_type="pt", **options).images
    torch.testing.assert_close(found, draw(model, sampler, num_steps, [5, 6], [0, 1], **options), atol=1e-4, rtol=0)


def test_without_a_class_the_pipeline_draws_the_null_class(pipeline: Any, model: Model) -> None:
    found = pipeline(seeds=[5], output_type="pt").images
    torch.testing.assert_close(found, draw(model, "dpmpp_2m", 5, [5], [2]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"class_labels": [2]}, "class_labels: should be one per seed, each in 0 … 1"),
        ({"class_labels": [0, 1]}, "class_labels: should be one per seed"),
        ({"num_inference_steps": 51}, "num_inference_steps: should be in 1 … 50"),
        ({"sampler": "ddpm", "eta": 0.5}, "eta in 0 … 1 for ddim"),
        ({"guidance_scale": 2.0}, "guidance_scale: should be 1 for images without a class"),
        ({"guidance_interval": (0.7, 0.3)}, "guidance_interval: should be 0 <= begin < end <= 1"),
    ],
)
def test_the_pipeline_refuses_what_our_sampler_refuses(pipeline: Any, asked: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline(seeds=[1], **asked)


def test_a_model_that_is_guided_in_a_part_of_its_steps_is_so_as_an_export_too(tmp_path: Path) -> None:
    sampling = replace(WITH_CLASSES.sampling, guidance_scale=2.0, guidance_interval=(0.2, 0.7))
    model = load_model(save(tmp_path / "model", replace(WITH_CLASSES, sampling=sampling)))
    # It compares images of both before it writes the folder.
    diffusers.write_diffusers(model, tmp_path / "exported")
    index = json.loads((tmp_path / "exported" / "model_index.json").read_text())
    assert (index["guidance_scale"], index["guidance_interval"]) == (2.0, [0.2, 0.7])


def test_the_networks_file_is_ours_as_it_is_and_runs_without_our_packages(exported: Path) -> None:
    file = exported / "unet" / "foundry_network.py"
    assert file.read_bytes() == Path(unet.__file__).read_bytes()
    code = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("pipeline", "service", "jaxtyping"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
import foundry_network
config = foundry_network.UNetConfig(patch_size=2, widths=(8,), num_blocks=1, attention=True, dropout=0.0)
foundry_network.UNet(config, image_size=8, channels=1, num_classes=2)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=file.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_exported_code_imports_torch_numpy_and_diffusers_only(exported: Path) -> None:
    nodes = [node for path in exported.rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"torch", "numpy", "diffusers"}


def test_an_export_that_differs_from_the_model_is_refused_and_leaves_nothing(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diffusers, "sample", lambda *asked, **named: sample(*asked, **named) + 2e-4)
    with pytest.raises(FoundryError, match=r"the export differs from the model by 2\.\de-04"):
        diffusers.write_diffusers(model, tmp_path / "exported")
    assert list(tmp_path.iterdir()) == []
    assert "exported" not in sys.modules
