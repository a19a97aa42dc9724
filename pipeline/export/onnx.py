"""The denoiser as an ONNX file."""

from pathlib import Path

import torch
from torch import Tensor

from pipeline.artefacts.files import replacing
from pipeline.artefacts.model import Model
from pipeline.export.denoiser import Denoise, ExportError, attempt, check_denoiser, metadata, trace


def write_onnx(model: Model, out: Path) -> None:
    """Write one file for opset 18 and later, with digest, classes and the sampler's table in its metadata.

    Raises:
        ExportError: ONNX cannot express the network, or the file differs from the model.
    """
    program = attempt(lambda: torch.onnx.export(trace(model), output_names=["denoised"], verbose=False))
    if program is None:
        raise ExportError("torch's ONNX exporter returned no program")
    for node in program.model.graph.all_nodes():
        # It names our modules and classes: a file should not change when they are renamed.
        node.metadata_props.clear()
    program.model.metadata_props["foundry"] = metadata(model)
    with replacing(out) as temporary:
        program.save(temporary, external_data=False)
        check_onnx(model, temporary)


def check_onnx(model: Model, path: Path) -> None:
    """Compare an ONNX file with the model.

    Raises:
        ExportError: it differs from the model.
    """
    check_denoiser(model, _load(path))


def _load(path: Path) -> Denoise:
    import onnxruntime  # an optional extra, and `foundry model package` works without it

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def denoise(*inputs: Tensor) -> Tensor:
        arrays = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, arrays)[0])

    return denoise
