"""Named tensors on disk, as safetensors: whole or not at all."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from pipeline.diffusion.errors import ArtefactError
from pipeline.diffusion.files import replacing


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write safetensors, at once and whole."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        # Not `save_file`, whose files only their owner can read.
        temporary.write_bytes(save(contiguous, metadata=dict(metadata) if metadata else None))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU."""
    try:
        # Not as a memory map: a file that is cut short while its tensors are used would end the process (SIGBUS).
        tensors: dict[str, Tensor] = load_file(path, backend="pread")
    except OSError as error:
        raise ArtefactError(f"{path}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise ArtefactError(f"{path}: not whole safetensors: {error}") from None
    return tensors
