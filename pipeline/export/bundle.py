"""A model on its way to be served: its name looked up once, its files checked, a copy kept that nobody changes.

Beside the model's own files the copy gets the network for ONNX Runtime, which the service is faster with on CPUs.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.artefacts.model import DESCRIPTION, WEIGHTS, Model, load_model, model_digest
from pipeline.errors import ArtefactError, FoundryError
from pipeline.export import portable
from pipeline.provenance.lineage import main_worktree
from pipeline.registry import registry, versions

ONNX = "denoiser.onnx"
"""Its name beside the model's files; `service.engine.onnx` reads it."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A checked model and where it comes from."""

    folder: Path
    """Holds the model's two files and, where it could be made, `denoiser.onnx`; its name is the digest."""
    name: str
    """The registered model's, or `model` for a folder that no registry knows."""
    tag: str
    """Tells it from every other model of that name."""
    digest: str
    origin: Mapping[str, str]
    """Registry version, run, commit, DVC's lock, data, decision; what is not known is left out."""


def fetch(where: str) -> Bundle:
    """The model in a folder, or the one that `models:/NAME@ALIAS` or `models:/NAME/VERSION` means now.

    Raises:
        ArtefactError: its files do not fit, or it is not the one that the registry says.
        StoreError: the registry does not have it, or does not answer.

    """
    if ":/" not in where:
        folder, digest = _keep(Path(where))
        return Bundle(folder=folder, name="model", tag=digest[:16], digest=digest, origin=_origin_of(folder))

    version = versions.resolve(where)
    folder, digest = _keep(registry.download(version.uri))
    if digest != version.digest:
        raise ArtefactError(f"{version.uri}: holds a model with digest {digest}, the registry wants {version.digest}")
    tag = f"{version.number}-{digest[:16]}"
    return Bundle(folder=folder, name=version.name, tag=tag, digest=digest, origin=version.origin)


def add_onnx(parcel: Bundle) -> None:
    """Put the network for ONNX Runtime beside the model's files, unless a good one is there.

    Raises:
        FoundryError: it cannot be made; the message says why.

    """
    model, path = load_model(parcel.folder), parcel.folder / ONNX
    try:
        if not (path.exists() and _denoises_as(model, path)):
            portable.write_onnx(model, path)
    except ModuleNotFoundError as missing:
        raise portable.ExportError(f"{missing.name} is missing, which the export extra brings") from None


def copy(parcel: Bundle, out: Path) -> None:
    """Put the files into a new folder.

    Raises:
        FoundryError: there is something at `out` already.

    """
    if out.exists():
        raise FoundryError(f"{out}: is there already")
    _copy(parcel.folder, out, [path.name for path in parcel.folder.iterdir()])


def _keep(source: Path) -> tuple[Path, str]:
    """A copy of a model folder by its digest, so that what is served stays as it was checked."""
    digest = load_model(source).digest
    kept = main_worktree() / ".foundry" / "models" / digest
    if kept.exists():
        try:
            model_digest(kept)
        except ArtefactError:
            shutil.rmtree(kept)
    if not kept.exists():
        _copy(source, kept, (WEIGHTS, DESCRIPTION))
        # The source may have changed since it was read.
        if model_digest(kept) != digest:
            shutil.rmtree(kept)
            raise ArtefactError(f"{source}: changes while it is read")
    return kept, digest


def _denoises_as(model: Model, path: Path) -> bool:

    try:
        portable.check_onnx(model, path)
    except ModuleNotFoundError:
        raise
    except Exception:  # noqa: BLE001, those of ONNX Runtime are private
        return False
    return True


def _copy(source: Path, out: Path, names: Sequence[str]) -> None:
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in names:
        shutil.copyfile(source / name, partial / name)
    partial.rename(out)


def _origin_of(folder: Path) -> dict[str, str]:
    """What a model says of itself, where no registry is asked."""
    model = load_model(folder)
    data = model.description.provenance.get("data_digest")
    return {"model.digest": model.digest, **({"data.digest": str(data)} if data else {})}
