"""The denoiser as `foundry model package` puts it beside a model's weights, run by ONNX Runtime.

On CPUs it is faster than torch, and a row has the same bits in more batch sizes, so that exact mode fills up less.
"""

from __future__ import annotations

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
    """Rows on the CPU in, denoised rows out."""

    def __init__(self, path: Path, model: Model, *, threads: int) -> None:
        """Load the file and hold it against the model.

        Raises:
            FoundryError: there is no ONNX Runtime, the file is no model of ONNX, or it is not this model's.

        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ArtefactError(f"{path}: {error.strerror}") from None
        self._session = _session(path, content, threads)
        facts = json.loads(self._session.get_modelmeta().custom_metadata_map.get("foundry", "{}"))
        if facts.get("model_digest") != model.digest:
            raise ArtefactError(f"{path}: made of model {facts.get('model_digest')}, this is {model.digest}")
        self._check(path, model)
        self.name = f"onnxruntime {version('onnxruntime')} {hashlib.sha256(content).hexdigest()[:16]}"
        """Another release, or a file from another exporter, may round otherwise."""

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        inputs = {"x": x.numpy(), "t": t.numpy()}
        if labels is not None:
            inputs["labels"] = labels.numpy()
        return torch.from_numpy(self._session.run(None, inputs)[0])

    @torch.inference_mode()
    def _check(self, path: Path, model: Model) -> None:
        """A file may say that it is of this model and hold other weights."""
        x = torch.randn(2, *model.description.data.shape, generator=torch.Generator().manual_seed(0))
        t = torch.tensor([model.schedule.num_timesteps - 1, 0])
        labels = None if model.null_label is None else torch.tensor([0, model.null_label])
        expected, tolerance = model.denoiser()(x, t, labels), EXPORT_TOLERANCE
        if not torch.allclose(self(x, t, labels), expected, tolerance, tolerance, equal_nan=True):
            raise ArtefactError(f"{path}: does not denoise as the model does; remove it to have it made anew")


def _session(path: Path, content: bytes, threads: int) -> Any:  # onnxruntime has no types
    try:
        import onnxruntime  # noqa: PLC0415, only where it is used
    except ImportError:
        raise FoundryError(f"{path}: needs the package onnxruntime, or FOUNDRY_BACKEND=torch") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Threads that wait by spinning take the core that HTTP needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001, its own kinds are private
        raise ArtefactError(f"{path}: not a model of ONNX: {str(error).splitlines()[0]}") from None
