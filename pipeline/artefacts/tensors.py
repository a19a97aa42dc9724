"""Named tensors on disk as safetensors, written atomically, with a digest of their content."""

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
"""Key of the digest in a file's metadata."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write safetensors atomically, with a digest of the tensors as metadata, or with `metadata` in its place.

    Not with both: safetensors writes metadata in random order, so the bytes would differ from run to run.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        # Not `save_file`, which creates files that only their owner may read.
        temporary.write_bytes(save(contiguous, metadata=dict(metadata or {DIGEST: _digest(contiguous)})))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU.

    Raises:
        ArtefactError: the file is missing or incomplete, or its tensors do not match its digest, if it has one.
    """
    try:
        # Not a memory map: truncating the file while its tensors are in use would kill the process (SIGBUS).
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
    """The metadata in the header, which follows the header's length at the start of the file."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return dict(header.get("__metadata__", {}))
