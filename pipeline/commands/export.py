"""Write a model for other programs: ONNX, a torch.export program, or a folder for diffusers.

    python -m pipeline.commands.export --to onnx --model models:/fashion-mnist@champion --out denoiser.onnx

Every export is loaded again and compared with the model before it is put into its place.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import command

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2", "diffusers": ""}


def main() -> None:
    arguments = _parser().parse_args()
    from pipeline.artefacts.model import load_model
    from pipeline.export import portable
    from pipeline.registry import registry

    out = _checked(arguments.out, arguments.to)
    write = {
        "onnx": portable.write_onnx,
        "torch-export": portable.write_torch_export,
        "diffusers": portable.write_diffusers,
    }[arguments.to]
    model = load_model(registry.model_folder(arguments.model))
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        write(model, out)
    except ModuleNotFoundError as missing:
        raise portable.ExportError(f"--to {arguments.to}: needs the export extra ({missing.name} is missing)") from None
    sys.stderr.write(f"{out}: the model {model.digest[:12]}, equal to {portable.TOLERANCE:.0e}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.commands.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--to", choices=sorted(SUFFIXES), required=True)
    parser.add_argument("--model", required=True, metavar="FOLDER_OR_URI", help="data/model or models:/NAME@champion")
    parser.add_argument(
        "--out", type=Path, required=True, help="model.onnx, model.pt2, or the folder to make for diffusers"
    )
    return parser


def _checked(out: Path, to: str) -> Path:
    from pipeline.export.portable import ExportError

    suffix = SUFFIXES[to]
    if suffix and out.suffix != suffix:
        raise ExportError(f"--out: should end in {suffix} (got {out})")
    return out


if __name__ == "__main__":
    command.run(main)
