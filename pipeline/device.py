"""The machine's best device, and what it is told for it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Device:
    """Where tensors live, and in which precision the network runs there."""

    device: torch.device
    autocast: bool
    """Whether training multiplies in bfloat16: on cards, and on CPUs that have AMX. It is 9 times slower than float32 on a
    CPU that has neither AMX nor AVX512-BF16."""

    compile: bool
    """torch.compile the network; asked for by FOUNDRY_COMPILE=1, it takes about a minute before it pays."""

    @property
    def name(self) -> str:
        """As people call it."""
        return torch.cuda.get_device_name(self.device) if self.is_cuda else self.device.type

    @property
    def precision(self) -> str:
        """In which training multiplies."""
        return "bfloat16" if self.autocast else "float32"

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"


def best_device() -> Device:
    """CUDA where there is a card, else Apple's MPS, else the CPU."""
    compiled = os.environ.get("FOUNDRY_COMPILE") == "1"
    if torch.cuda.is_available():
        return Device(torch.device("cuda"), autocast=torch.cuda.is_bf16_supported(), compile=compiled)
    if torch.backends.mps.is_available():
        return Device(torch.device("mps"), autocast=False, compile=compiled)
    return Device(torch.device("cpu"), autocast=_has_matrix_units(), compile=compiled)


def _has_matrix_units() -> bool:
    """Whether this CPU multiplies tiles of bfloat16 (Intel's AMX)."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))
