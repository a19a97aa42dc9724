"""Pack a model together with the service that draws with it.

A name in the registry is resolved once. Packing the same model with the same code again builds nothing new.
BENTOML_HOME sets where Bentos are kept.
"""

import sys
from pathlib import Path

from pipeline.errors import FoundryError
from pipeline.export import bundle
from pipeline.export.bundle import Bundle
from pipeline.params import load_params
from pipeline.progress import waiting


def main(model: str | None, *, resolve: bool, folder: Path | None, sbom: Path | None) -> None:
    if sum(map(bool, (resolve, folder, sbom))) > 1:
        raise FoundryError("--resolve, --folder and --sbom exclude each other")
    if sbom:
        from pipeline.export.sbom import write_sbom  # noqa: PLC0415  # cyclonedx is of an extra that the rest does without

        write_sbom(sbom)
        return
    fetched = fetch(model)
    if folder:
        bundle.copy(fetched, folder)
        result: str | Path = folder
    elif resolve:
        result = fetched.folder
    else:
        from pipeline.export import bento  # noqa: PLC0415  # BentoML takes a second, and only this needs it

        with waiting("Bento"):
            result = bento.pack(fetched)
    sys.stdout.write(f"{result}\n")


def fetch(model: str | None) -> Bundle:
    """Copy and check a model, None: the champion; with `denoiser.onnx` if it can be written."""
    fetched = bundle.fetch(model or f"models:/{load_params().register_.model_name}@champion")
    for key, value in fetched.origin.items():
        sys.stderr.write(f"{key:<16}{value}\n")
    try:
        with waiting("ONNX"):
            bundle.add_onnx(fetched)
    except FoundryError as reason:
        # torch serves it too, only slower.
        sys.stderr.write(f"not for ONNX Runtime: {reason}\n")
    return fetched
