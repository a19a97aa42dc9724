"""Named tensors on disk, as safetensors: whole or not at all, with a digest of what they hold."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from pipeline.artefacts.files import replacing
from pipeline.errors import ArtefactError

DIGEST = "sha256"
"""Its key in a file's metadata."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write safetensors, at once and whole; with `metadata`, if there are, in the place of the digest.

    With both the bytes would not be the same every time: safetensors writes metadata in an order left to chance.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        # Not `save_file`, whose files only their owner can read.
        temporary.write_bytes(save(contiguous, metadata=dict(metadata or {DIGEST: _digest(contiguous)})))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU.

    Raises:
        ArtefactError: the file is missing or not whole, or its tensors are not those of its digest, where it has one.

    """
    try:
        # Not as a memory map: a file that is cut short while its tensors are used would end the process (SIGBUS).
        tensors: dict[str, Tensor] = load_file(path, backend="pread")
    except OSError as error:
        raise ArtefactError(f"{path}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise ArtefactError(f"{path}: not whole safetensors: {error}") from None
    wanted = _metadata(path).get(DIGEST)
    if wanted and (found := _digest(tensors)) != wanted:
        raise ArtefactError(f"{path}: damaged: SHA-256 of the tensors is {found}, the file wants {wanted}")
    return tensors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _metadata(path: Path) -> dict[str, str]:
    """A safetensors file begins with the length of its header, and that."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return dict(header.get("__metadata__", {}))
