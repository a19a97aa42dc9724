"""Write a model for other programs: ONNX, a torch.export program, or a folder for diffusers.

Every export is loaded again and compared with the model before it replaces what is at --out.
"""

import sys
from pathlib import Path

from pipeline.artefacts.model import EXPORT_TOLERANCE, load_model
from pipeline.export.denoiser import ExportError
from pipeline.export.diffusers import write_diffusers
from pipeline.export.onnx import write_onnx
from pipeline.export.torch_export import write_torch_export
from pipeline.progress import waiting
from pipeline.registry import versions

FORMATS = {
    "onnx": (".onnx", write_onnx),
    "torch-export": (".pt2", write_torch_export),
    "diffusers": ("", write_diffusers),
}
"""Suffix of the file (empty for a folder) and the function that writes it, by format."""


def main(to: str, model: str, out: Path) -> None:
    suffix, write = FORMATS[to]
    if suffix and out.suffix != suffix:
        raise ExportError(f"--out: should end in {suffix} (got {out})")
    loaded = load_model(versions.model_folder(model))
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with waiting("export and comparison"):
            write(loaded, out)
    except ModuleNotFoundError as missing:
        package = str(missing.name).partition(".")[0]
        raise ExportError(f"--to {to}: needs the export extra ({package} is missing)") from None
    sys.stderr.write(f"{out}: model {loaded.digest[:12]}, equal to {EXPORT_TOLERANCE:.0e}\n")
