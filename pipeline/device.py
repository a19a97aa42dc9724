"""The compute device of this machine, the arithmetic used on it, and the memory that a process has taken."""

import os
import resource
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.artefacts.sizes import MIB


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
        _set_arithmetic_of_gpus()
        # Older GPUs emulate bfloat16.
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return Device(torch.device("cuda"), autocast=has_bfloat16, compile=compiled)
    if torch.backends.mps.is_available():
        return Device(torch.device("mps"), autocast=False, compile=compiled)
    return Device(torch.device("cpu"), autocast=_has_amx(), compile=compiled)


def _set_arithmetic_of_gpus() -> None:
    """Make GPU arithmetic reproducible: full float32 precision (no TF32), and kernels that add in a fixed order."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    cuda.allow_tf32 = cudnn.allow_tf32 = cuda.allow_bf16_reduced_precision_reduction = False
    # Benchmark mode times kernels and takes the fastest, which may be another one in the next process.
    cudnn.benchmark, cudnn.deterministic = False, True
    # Read when cuBLAS is initialised; torch's deterministic algorithms require a workspace of fixed size.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def use_deterministic_algorithms(device: Device) -> None:
    """Make torch raise where a GPU kernel has no deterministic form; on a CPU this changes nothing.

    For training only: evaluation calls `kthvalue`, whose values are deterministic but whose indices are not, which
    torch refuses.
    """
    if device.is_cuda:
        torch.use_deterministic_algorithms(mode=True)
        # Filling uninitialised tensors costs time, and no result depends on their content.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # torch leaves it untyped


def _has_amx() -> bool:
    """Whether this CPU has Intel's matrix extensions for bfloat16."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def peak_mib() -> float:
    """Peak memory in MiB: of tensors on the GPU if there is one, else of this process."""
    return torch.cuda.max_memory_allocated() / MIB if torch.cuda.is_available() else process_peak_mib()


def process_peak_mib() -> float:
    """Peak resident memory of this process in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage's peak is inherited from the process that started this one.
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB
