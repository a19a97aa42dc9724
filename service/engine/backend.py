"""The library that runs the network: torch, or ONNX Runtime on CPUs where the model folder has its file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from pipeline.artefacts.model import ONNX, Model
from pipeline.diffusion.denoiser import Denoiser
from service.engine.onnx import OnnxDenoiser

BackendName = Literal["auto", "torch", "onnxruntime"]


@dataclass(frozen=True, slots=True)
class Backend:
    """A model's denoiser and the device of its inputs."""

    name: str
    """Part of the `repro_id`; differs between backends that may round differently."""
    denoiser: Denoiser
    device: torch.device


def backend_for(model: Model, folder: Path, name: BackendName, *, threads: int) -> Backend:
    """The named backend; `auto` is torch on a GPU, else ONNX Runtime where `folder` has its file, else torch.

    Raises:
        FoundryError: the file for ONNX Runtime is missing, or does not belong to this model.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    file = folder / ONNX
    if name == "onnxruntime" or (name == "auto" and device.type == "cpu" and file.exists()):
        denoiser = OnnxDenoiser(file, model, threads=threads)
        return Backend(denoiser.name, denoiser, torch.device("cpu"))
    return Backend("torch", model.denoiser(device), device)
