"""Write a model for other programs: ONNX, a torch.export program, or a folder for diffusers.

    foundry model export --to onnx --model models:/fashion-mnist@champion --out denoiser.onnx

Every export is loaded again and compared with the model before it is put into its place.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.artefacts.model import load_model
from pipeline.export import portable
from pipeline.export.portable import ExportError
from pipeline.registry import registry

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2", "diffusers": ""}


def main(to: str, model: str, out: Path) -> None:

    out = _checked(out, to)
    write = {
        "onnx": portable.write_onnx,
        "torch-export": portable.write_torch_export,
        "diffusers": portable.write_diffusers,
    }[to]
    loaded = load_model(registry.model_folder(model))
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        write(loaded, out)
    except ModuleNotFoundError as missing:
        raise portable.ExportError(f"--to {to}: needs the export extra ({missing.name} is missing)") from None
    sys.stderr.write(f"{out}: the model {loaded.digest[:12]}, equal to {portable.TOLERANCE:.0e}\n")


def _checked(out: Path, to: str) -> Path:

    suffix = SUFFIXES[to]
    if suffix and out.suffix != suffix:
        raise ExportError(f"--out: should end in {suffix} (got {out})")
    return out
