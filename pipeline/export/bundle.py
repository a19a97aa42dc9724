"""A model to be served: a private copy of its checked files, with the ONNX file that CPUs serve it faster by."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.artefacts.model import DESCRIPTION, ONNX, WEIGHTS, Model, load_model, model_digest
from pipeline.errors import ArtefactError, FoundryError
from pipeline.export.denoiser import ExportError, attempt
from pipeline.export.onnx import check_onnx, write_onnx
from pipeline.provenance.git import main_worktree
from pipeline.registry import versions
from pipeline.tracking.tags import DATA_TAG, DIGEST_TAG


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A checked model and its origin."""

    folder: Path
    """Holds the model's two files and, if `add_onnx` could write it, `denoiser.onnx`; its name is the digest."""
    name: str
    """The registered model's; `model` for a folder that is not registered."""
    tag: str
    """Unique among the models of that name."""
    digest: str
    origin: Mapping[str, str]
    """Registry version, run, commit, DVC's lock, data and decision, as far as they are known."""


def fetch(source: str) -> Bundle:
    """Copy the model of a folder, of `models:/NAME@ALIAS` or of `models:/NAME/VERSION` into `.foundry/models`.

    Raises:
        ArtefactError: its files do not fit together, or it is not the model that the registry describes.
        StoreError: the registry does not have it, or does not answer.
    """
    if ":/" not in source:
        folder, model = _keep(Path(source))
        data = model.description.provenance.get("data_digest")
        origin = {DIGEST_TAG: model.digest, **({DATA_TAG: str(data)} if data else {})}
        return Bundle(folder=folder, name="model", tag=model.digest[:16], digest=model.digest, origin=origin)

    version = versions.resolve(source)
    folder, model = _keep(versions.download(version.uri))
    if model.digest != version.digest:
        raise ArtefactError(
            f"{version.uri}: holds a model with digest {model.digest}, the registry wants {version.digest}"
        )
    tag = f"{version.number}-{model.digest[:16]}"
    return Bundle(folder=folder, name=version.name, tag=tag, digest=model.digest, origin=version.origin)


def add_onnx(bundle: Bundle) -> None:
    """Write `denoiser.onnx` beside the model's files, unless the one that exists matches the model.

    Raises:
        FoundryError: it cannot be written; the message gives the reason.
    """
    model, path = load_model(bundle.folder), bundle.folder / ONNX
    try:
        with suppress(ExportError):
            attempt(lambda: check_onnx(model, path))
            return
        write_onnx(model, path)
    except ModuleNotFoundError as missing:
        raise ExportError(f"{missing.name} is missing; the export extra brings it") from None


def copy(bundle: Bundle, out: Path) -> None:
    """Copy the files into a new folder.

    Raises:
        FoundryError: `out` exists.
    """
    if out.exists():
        raise FoundryError(f"{out}: already exists, wanted a new folder")
    _copy(bundle.folder, out, [path.name for path in bundle.folder.iterdir()])


def _keep(source: Path) -> tuple[Path, Model]:
    """Copy a model folder to `.foundry/models/<digest>`, unless it is there: later changes of the source do no harm."""
    model = load_model(source)
    kept = main_worktree() / ".foundry" / "models" / model.digest
    with suppress(ArtefactError):
        model_digest(kept)
        return kept, model
    shutil.rmtree(kept, ignore_errors=True)
    _copy(source, kept, (WEIGHTS, DESCRIPTION))
    if model_digest(kept) != model.digest:
        shutil.rmtree(kept)
        raise ArtefactError(f"{source}: changed while it was read")
    return kept, model


def _copy(source: Path, out: Path, names: Sequence[str]) -> None:
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in names:
        shutil.copyfile(source / name, partial / name)
    partial.rename(out)
