"""A model as a folder for Hugging Face's diffusers.

The folder holds the weights, our network's file as it is, and two files of code from `templates/`: the network as a
component of diffusers, and a pipeline with our samplers. It needs torch and diffusers only.
"""

import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from pipeline.artefacts.files import write_json
from pipeline.artefacts.model import Model, default_plan, plan_for
from pipeline.artefacts.tensors import save_tensors
from pipeline.diffusion import unet
from pipeline.diffusion.samplers import SAMPLERS
from pipeline.diffusion.sampling import sample
from pipeline.export.denoiser import ExportError, check_equal

TEMPLATES = Path(__file__).with_name("templates")
SEEDS = [0, 1]
"""Seeds of the two images by which the pipeline is compared with the model."""


def write_diffusers(model: Model, out: Path) -> None:
    """Write a folder that `DiffusionPipeline.from_pretrained(out, trust_remote_code=True)` loads.

    Raises:
        ExportError: `out` exists, or the pipeline's images differ from the model's.
    """
    if out.exists():
        raise ExportError(f"{out}: already exists, wanted a new folder")
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        folder = Path(temporary) / "exported"
        _write_folder(model, folder)
        _check_folder(model, folder)
        folder.rename(out)


def _write_folder(model: Model, folder: Path) -> None:
    description, data = model.description, model.description.data
    component = folder / "unet"
    component.mkdir(parents=True)
    shutil.copyfile(TEMPLATES / "foundry_pipeline.py", folder / "foundry_pipeline.py")
    shutil.copyfile(TEMPLATES / "foundry_unet.py", component / "foundry_unet.py")
    shutil.copyfile(unet.__file__, component / "foundry_network.py")
    weights = {f"network.{name}": tensor for name, tensor in model.network.state_dict().items()}
    save_tensors(component / "diffusion_pytorch_model.safetensors", weights, {"format": "pt"})
    config = {
        "_class_name": "FoundryUNet",
        "image_size": data.image_size,
        "channels": data.channels,
        "num_classes": data.num_classes,
        "num_timesteps": model.network.num_timesteps,
        "architecture": asdict(description.network),
    }
    write_json(component / "config.json", config)
    index = {
        "_class_name": ["foundry_pipeline", "FoundryPipeline"],
        "unet": ["foundry_unet", "FoundryUNet"],
        "betas": model.schedule.beta.tolist(),
        "target": description.target,
        "timetables": description.timetables,
        **asdict(description.sampling),
        "class_names": data.class_names,
        "model_digest": model.digest,
    }
    write_json(folder / "model_index.json", index)


def _check_folder(model: Model, folder: Path) -> None:
    """Compare two images of each sampler, and of the model's own sampling, with the model's."""
    denoiser = model.denoiser()
    labels = [0, model.null_label - 1] if model.null_label else None
    classes = torch.tensor(labels) if labels else None
    num_steps, shape = min(4, model.schedule.num_timesteps), model.description.data.shape
    with _importable(folder):
        pipeline = _load(folder)
        asked = [{"sampler": each, "num_inference_steps": num_steps, "guidance_scale": 1.0} for each in SAMPLERS]
        plans = [plan_for(model, each, num_steps) for each in SAMPLERS]
        for options, plan in zip([*asked, {}], [*plans, default_plan(model)], strict=True):
            expected = sample(denoiser, plan, SEEDS, classes, shape, null_label=model.null_label)
            check_equal(pipeline(labels, SEEDS, **options, output_type="pt").images, expected)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let the folder's modules be imported as a package of its name, and forget them afterwards."""
    sys.path.insert(0, str(folder.parent))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder.parent))
        for name in [name for name in sys.modules if name.split(".")[0] == folder.name]:
            del sys.modules[name]


def _load(folder: Path) -> Any:  # diffusers is untyped
    """Load the pipeline from its files; from_pretrained would copy them into the user's home directory."""
    component = importlib.import_module(f"{folder.name}.unet.foundry_unet")
    network = component.FoundryUNet.from_pretrained(folder / "unet", low_cpu_mem_usage=False)
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    settings = {name: value for name, value in index.items() if name not in ("_class_name", "unet")}
    pipeline = importlib.import_module(f"{folder.name}.foundry_pipeline").FoundryPipeline(network, **settings)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
