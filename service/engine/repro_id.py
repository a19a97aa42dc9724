"""Digest of everything besides its parameters that the bits of an image depend on."""

import hashlib
import json
import platform
from pathlib import Path

import numpy as np
import torch

from service.engine.backend import Backend
from service.engine.batch_sizes import BatchSizes


def repro_id(backend: Backend, batch_sizes: BatchSizes) -> str:
    """16 hex digits; equal where backend, libraries, processor, threads and exact batch sizes are equal."""
    facts = {
        "backend": backend.name,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "processor": _processor(backend.device),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "exact_batches": batch_sizes.exact,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
