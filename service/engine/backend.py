"""What calls the network: torch, or ONNX Runtime on CPUs where the model's folder has its file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from pipeline.artefacts.model import ONNX, Model
from pipeline.diffusion.denoiser import Denoiser
from service.engine.onnx import OnnxDenoiser

Wanted = Literal["auto", "torch", "onnxruntime"]


@dataclass(frozen=True, slots=True)
class Backend:
    """The denoiser of a model, and where its rows have to be."""

    name: str
    """Tells apart what may round differently."""
    denoiser: Denoiser
    device: torch.device


def backend_for(model: Model, folder: Path, wanted: Wanted, *, threads: int) -> Backend:
    """The back end that is wanted; `auto` takes torch on a GPU, else ONNX Runtime where `folder` has its file.

    Raises:
        FoundryError: the file for ONNX Runtime is not there, or not this model's.

    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    file = folder / ONNX
    if wanted == "onnxruntime" or (wanted == "auto" and device.type == "cpu" and file.exists()):
        denoiser = OnnxDenoiser(file, model, threads=threads)
        return Backend(denoiser.name, denoiser, torch.device("cpu"))
    return Backend("torch", model.denoiser(device), device)
