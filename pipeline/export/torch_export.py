"""The denoiser as a torch.export program."""

from pathlib import Path

import torch

from pipeline.artefacts.files import replacing
from pipeline.artefacts.model import Model
from pipeline.export.denoiser import check_denoiser, metadata, trace


def write_torch_export(model: Model, out: Path) -> None:
    """Write a program; `torch.export.load(out).module()` is the denoiser.

    Raises:
        ExportError: torch cannot trace the network, or the program differs from the model.
    """
    program = trace(model)
    # They would be pickled.
    program.example_inputs = None
    with replacing(out) as temporary:
        with temporary.open("wb") as file:
            torch.export.save(program, file, extra_files={"foundry.json": metadata(model)})
        with temporary.open("rb") as file:
            check_denoiser(model, torch.export.load(file).module())
