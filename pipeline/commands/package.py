"""Pack a model and the service that draws with it.

    foundry model package                                   a Bento with the champion; its tag is printed
    foundry model package --model models:/fashion-mnist/3   with another version, or a model folder
    foundry model package --resolve                         only the checked model; its folder is printed
    foundry model package --settings                        the same, as variables that the service reads
    foundry model package --folder OUT                      only the checked model, as a new folder OUT
    foundry model package --sbom FILE                       the bill of materials of the service

A name in the registry is looked up once. Packing the same model with the same code twice makes nothing new.
BENTOML_HOME says where Bentos are kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.artefacts.files import write_json
from pipeline.errors import FoundryError
from pipeline.export import bento, bundle
from pipeline.export.bundle import Bundle
from pipeline.export.sbom import bill
from pipeline.params import load_params


def main(model: str | None, *, resolve: bool, folder: Path | None, sbom: Path | None) -> None:

    if sum(map(bool, (resolve, folder, sbom))) > 1:
        raise FoundryError("--resolve, --folder and --sbom exclude each other")
    if sbom:
        write_json(sbom, bill())
        return
    fetched = _fetched(model)
    if folder:
        bundle.copy(fetched, folder)
        sys.stdout.write(f"{folder}\n")
    elif resolve:
        sys.stdout.write(f"{fetched.folder}\n")
    else:
        sys.stdout.write(f"{bento.pack(fetched)}\n")


def resolve(model: str | None) -> tuple[str, str]:
    """The checked folder and the name of a registered model, None: of the champion."""
    fetched = _fetched(model)
    return str(fetched.folder), fetched.name


def _fetched(model: str | None) -> Bundle:

    fetched = bundle.fetch(model or _champion())
    for key, value in fetched.origin.items():
        sys.stderr.write(f"{key:<16}{value}\n")
    try:
        bundle.add_onnx(fetched)
    except FoundryError as reason:
        # A model is served all the same, if slower.
        sys.stderr.write(f"not for ONNX Runtime: {reason}\n")
    return fetched


def _champion() -> str:

    return f"models:/{load_params().register_.model_name}@champion"
