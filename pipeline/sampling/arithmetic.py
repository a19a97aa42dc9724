"""Facts about machine and libraries that the last bits of an image, and the bytes of a file of them, depend on."""

import zlib

import numpy as np
import torch

from pipeline.device import best_device
from pipeline.inference.draw import BATCH_SIZE, GPU_BATCH_SIZE


def arithmetic() -> dict[str, str | int]:
    """Facts by name that determine the bytes of images. The number of cores is none of them: every batch has one thread."""
    device = best_device()
    on_cpu = device.device.type == "cpu"
    return {
        "device": device.name,
        "processor": _processor() if on_cpu else device.name,
        "batch_size": BATCH_SIZE if on_cpu else GPU_BATCH_SIZE,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
    }


def _processor() -> str:
    """Name, instructions and caches of the CPU, by which libraries choose their kernels and the sizes of blocks."""
    facts = {name: value for name, value in torch.cpu.get_capabilities().items() if not name.startswith("num_")}
    instructions = sorted(name for name, value in facts.items() if value is True)
    others = [str(value) for _, value in sorted(facts.items()) if not isinstance(value, bool)]
    return " ".join([*others, *instructions])
