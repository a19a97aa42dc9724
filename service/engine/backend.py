"""The library that runs the network: torch, or ONNX Runtime on CPUs where the model folder has its file."""

import hashlib
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from pipeline.artefacts.model import ONNX, Model
from pipeline.device import best_device
from pipeline.diffusion.denoiser import Denoiser
from service.engine.cuda_graphs import GraphDenoiser
from service.engine.onnx import OnnxDenoiser

BackendName = Literal["auto", "torch", "onnxruntime"]


@dataclass(frozen=True, slots=True)
class Backend:
    """A model's denoiser and the device of its inputs."""

    name: str
    """Part of the `repro_id`; differs between backends that may round differently."""
    denoiser: Denoiser
    device: torch.device

    def repro_id(self, exact_batches: tuple[int, ...]) -> str:
        """16 hex digits, equal where all is equal that the bits of an image depend on besides its parameters.

        That is backend, libraries, processor, threads and the batch sizes of exact mode.
        """
        facts = {
            "backend": self.name,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "processor": _processor(self.device),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "exact_batches": exact_batches,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def backend_for(model: Model, folder: Path, name: BackendName, *, threads: int) -> Backend:
    """The named backend; `auto` is torch with CUDA graphs on a GPU, else ONNX Runtime where `folder` has its file, else torch.

    Raises:
        FoundryError: the file for ONNX Runtime is missing, or does not belong to this model.
    """
    best = best_device()
    device = best.device if best.is_cuda else torch.device("cpu")
    file = folder / ONNX
    if name == "onnxruntime" or (name == "auto" and device.type == "cpu" and file.exists()):
        denoiser = OnnxDenoiser(file, model, threads=threads)
        return Backend(denoiser.name, denoiser, torch.device("cpu"))
    if name == "auto" and best.is_cuda:
        return Backend("torch with CUDA graphs", GraphDenoiser(model.denoiser(device)), device)
    return Backend("torch", model.denoiser(device), device)


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
