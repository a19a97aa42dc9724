"""ONNX Runtime as the denoiser's backend, with the file that `foundry model package` exports beside the weights.

On CPUs it is faster than torch, and a row has the same bits in more batch sizes, so that exact mode pads less.
"""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.artefacts.model import EXPORT_TOLERANCE, Model
from pipeline.errors import ArtefactError, FoundryError


class OnnxDenoiser:
    """A `Denoiser` whose inputs and outputs are CPU tensors."""

    def __init__(self, path: Path, model: Model, *, threads: int) -> None:
        """Load the file and compare its outputs with the model's.

        Raises:
            FoundryError: ONNX Runtime is not installed, or the file is missing, not an ONNX model, or not this model's.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ArtefactError(f"{path}: {error.strerror}") from None
        self._session = _session(path, content, threads)
        facts = json.loads(self._session.get_modelmeta().custom_metadata_map.get("foundry", "{}"))
        if facts.get("model_digest") != model.digest:
            raise ArtefactError(
                f"{path}: exported from model {facts.get('model_digest')}, but the folder holds {model.digest}"
            )
        self._check(path, model)
        self.name = f"onnxruntime {version('onnxruntime')} {hashlib.sha256(content).hexdigest()[:16]}"
        """Name with version and digest: another release, or a file of another exporter, may round differently."""

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        inputs = {"x": x.numpy(), "t": t.numpy()}
        if labels is not None:
            inputs["labels"] = labels.numpy()
        return torch.from_numpy(self._session.run(None, inputs)[0])

    @torch.inference_mode()
    def _check(self, path: Path, model: Model) -> None:
        """Check the outputs: the digest in the metadata could be right and the weights wrong."""
        x = torch.randn(2, *model.description.data.shape, generator=torch.Generator().manual_seed(0))
        t = torch.tensor([model.schedule.num_timesteps - 1, 0])
        labels = None if model.null_label is None else torch.tensor([0, model.null_label])
        expected, tolerance = model.denoiser()(x, t, labels), EXPORT_TOLERANCE
        if not torch.allclose(self(x, t, labels), expected, tolerance, tolerance, equal_nan=True):
            raise ArtefactError(
                f"{path}: its output differs from the model's; delete it and run `foundry model package` again"
            )


def _session(path: Path, content: bytes, threads: int) -> Any:  # onnxruntime has no types
    try:
        import onnxruntime  # noqa: PLC0415, an optional extra
    except ImportError:
        raise FoundryError(f"{path}: needs the package onnxruntime; install it or set FOUNDRY_BACKEND=torch") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Spinning threads would take the core that serves HTTP.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001, its exception classes are private
        raise ArtefactError(f"{path}: not an ONNX model: {str(error).splitlines()[0]}") from None
