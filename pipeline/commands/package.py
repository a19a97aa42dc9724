"""Pack a model and the service that draws with it.

    python -m pipeline.commands.package                                   a Bento with the champion; its tag is printed
    python -m pipeline.commands.package --model models:/fashion-mnist/3   with another version, or a model folder
    python -m pipeline.commands.package --resolve                         only the checked model; its folder is printed
    python -m pipeline.commands.package --settings                        the same, as variables that the service reads
    python -m pipeline.commands.package --folder OUT                      only the checked model, as a new folder OUT
    python -m pipeline.commands.package --sbom FILE                       the bill of materials of the service

A name in the registry is looked up once. Packing the same model with the same code twice makes nothing new.
BENTOML_HOME says where Bentos are kept.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import command
from pipeline.errors import FoundryError

if TYPE_CHECKING:
    from pipeline.export.bundle import Bundle


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.sbom:
        from pipeline.artefacts.files import write_json
        from pipeline.export import sbom

        write_json(arguments.sbom, sbom.bill())
        return
    from pipeline.export import bundle

    fetched = bundle.fetch(arguments.model or _champion())
    for key, value in fetched.origin.items():
        sys.stderr.write(f"{key:<16}{value}\n")
    try:
        bundle.add_onnx(fetched)
    except FoundryError as reason:
        # A model is served all the same, if slower.
        sys.stderr.write(f"not for ONNX Runtime: {reason}\n")
    if arguments.folder:
        bundle.copy(fetched, arguments.folder)
        sys.stdout.write(f"{arguments.folder}\n")
    elif arguments.resolve:
        sys.stdout.write(f"{fetched.folder}\n")
    elif arguments.settings:
        sys.stdout.write(f"{shlex.join(_settings(fetched))}\n")
    else:
        from pipeline.export import bento

        sys.stdout.write(f"{bento.pack(fetched)}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.commands.package",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model", metavar="FOLDER_OR_URI", help="default: the champion of the model that params.yaml names"
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--resolve", action="store_true", help="pack nothing, print where the checked model lies")
    only.add_argument("--settings", action="store_true", help="pack nothing, print FOUNDRY_MODEL=… and its name")
    only.add_argument("--folder", type=Path, metavar="OUT", help="pack nothing, put the checked model there")
    only.add_argument("--sbom", type=Path, metavar="FILE", help="pack nothing, write CycloneDX JSON")
    return parser


def _settings(fetched: Bundle) -> list[str]:
    named = [f"FOUNDRY_MODEL_NAME={fetched.name}"] if "mlflow.name" in fetched.origin else []
    return [f"FOUNDRY_MODEL={fetched.folder}", *named]


def _champion() -> str:
    from pipeline.params import load_params

    return f"models:/{load_params().register_.model_name}@champion"


if __name__ == "__main__":
    command.run(main)
