"""The model in BentoML's store, and the Bento that serves it; the only module of the pipeline that imports bentoml."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.artefacts.files import parts_digest
from pipeline.artefacts.model import model_digest
from pipeline.errors import ArtefactError
from pipeline.export import requirements
from pipeline.export.bundle import Bundle

# Nothing is told to anybody, and a build does not wait for an answer.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")

SERVICE = "service.app:Foundry"
NAME = "diffusion-foundry"
ROOT = requirements.ROOT
SOURCES = (
    "service/**/*",
    "pipeline/__init__.py",
    "pipeline/__main__.py",
    "pipeline/cli.py",
    "pipeline/errors.py",
    "pipeline/artefacts/**/*",
    "pipeline/diffusion/**/*",
)


def pack(parcel: Bundle) -> str:
    """The tag of a Bento with this model, which is built where the store does not have it yet.

    Raises:
        ArtefactError: the store has the model under its tag, and with other weights.
        FoundryError: a package that the service needs is not installed.

    """
    import bentoml
    from bentoml.exceptions import NotFound

    model = _add_model(parcel)
    packages = requirements.pinned()
    tag = f"{NAME}:{parcel.name}-{parcel.tag}-{_code_digest(packages)[:8]}"
    try:
        return str(bentoml.get(tag).tag)
    except NotFound:
        return _build(tag, model, parcel, packages)


def _add_model(parcel: Bundle) -> str:
    """The tag of the model in BentoML's store."""
    import bentoml

    tag = f"{parcel.name}:{parcel.tag}"
    path = _kept(tag)
    # It may have been packed where the network for ONNX Runtime could not be made.
    if path and not all((path / file.name).exists() for file in parcel.folder.iterdir()):
        bentoml.models.delete(tag)
        path = None
    if path is None:
        with bentoml.models.create(tag, labels=_labels(parcel), metadata=dict(parcel.origin)) as model:
            shutil.copytree(parcel.folder, model.path, dirs_exist_ok=True)
        path = Path(bentoml.models.get(tag).path)
    if (found := model_digest(path)) != parcel.digest:
        raise ArtefactError(f"Bento model {tag}: its digest is {found}, wanted is {parcel.digest}")
    return tag


def _kept(tag: str) -> Path | None:
    import bentoml
    from bentoml.exceptions import NotFound

    try:
        return Path(bentoml.models.get(tag).path)
    except NotFound:
        return None


def _build(tag: str, model: str, parcel: Bundle, packages: list[str]) -> str:
    import bentoml
    from bentoml.images import Image

    name, version = tag.split(":")
    with TemporaryDirectory() as folder:
        for path in _sources():
            copied = Path(folder) / path
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, copied)
        service: Any = bentoml.load(SERVICE, working_dir=folder)
        # The versions are exact already: nothing is looked up, and no index is written down.
        image = Image(python_version=_python_version(), lock_python_packages=False)
        service.image = image.python_packages(*packages)
        # A description cannot hold what the code says of it (`service.app.NoLimit`), and is not what is served by.
        service.config.pop("traffic")
        bento = bentoml.build(
            SERVICE,
            name=name,
            version=version,
            labels=_labels(parcel),
            models=[model],
            build_ctx=folder,
        )
    return str(bento.tag)


def _labels(parcel: Bundle) -> dict[str, str]:
    """What is worth to search for; labels are short."""
    wanted = ("mlflow.version", "model.digest", "git.commit", "decision")
    return {key: parcel.origin[key] for key in wanted if key in parcel.origin}


def _code_digest(packages: list[str]) -> str:
    """Of all in a Bento but its model."""
    code = [part for path in _sources() for part in (str(path).encode(), (ROOT / path).read_bytes())]
    return parts_digest([*code, *(line.encode() for line in packages), _python_version().encode()])


def _sources() -> Iterator[Path]:
    """The files of the service, relative to the project."""
    found = sorted(path for pattern in SOURCES for path in ROOT.glob(pattern))
    return (path.relative_to(ROOT) for path in found if path.is_file() and "__pycache__" not in path.parts)


def _python_version() -> str:
    return ".".join(platform.python_version_tuple()[:2])
