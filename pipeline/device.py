"""The compute device of this machine, the numeric precision used on it, and the memory that a process has taken."""

import os
import resource
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True)
class Device:
    """A device and how a network is trained on it."""

    device: torch.device
    autocast: bool
    """Whether training multiplies in bfloat16: on GPUs that support it and on CPUs with AMX. On a CPU that has neither AMX
    nor AVX512-BF16, bfloat16 is 9 times slower than float32."""

    compile: bool
    """Whether to `torch.compile` the network, set by FOUNDRY_COMPILE=1. Compiling takes about a minute."""

    @property
    def name(self) -> str:
        """Product name of a GPU; `mps` or `cpu`."""
        return torch.cuda.get_device_name(self.device) if self.is_cuda else self.device.type

    @property
    def precision(self) -> str:
        """Data type in which training multiplies: `bfloat16` or `float32`."""
        return "bfloat16" if self.autocast else "float32"

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"


def best_device() -> Device:
    """Return CUDA if a GPU is available, else Apple's MPS if available, else the CPU."""
    compiled = os.environ.get("FOUNDRY_COMPILE") == "1"
    if torch.cuda.is_available():
        return Device(torch.device("cuda"), autocast=torch.cuda.is_bf16_supported(), compile=compiled)
    if torch.backends.mps.is_available():
        return Device(torch.device("mps"), autocast=False, compile=compiled)
    return Device(torch.device("cpu"), autocast=_has_amx(), compile=compiled)


def _has_amx() -> bool:
    """Whether this CPU has Intel's matrix extensions for bfloat16."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def process_peak_mib() -> float:
    """The largest resident size of this process since it began."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage's peak is inherited from the process that started this one.
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
