"""What the bits of a picture depend on besides its recipe: the same facts give the same bits."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path

import numpy as np
import torch

from service.engine.backend import Backend
from service.engine.batch_sizes import Batches


def repro_id(backend: Backend, batches: Batches) -> str:
    """16 hex digits over backend, libraries, processor, threads and the sizes of exact batches."""
    facts = {
        "backend": backend.name,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "processor": _processor(backend.device),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "exact_batches": batches.exact,
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
