"""A model in BentoML's store, and the Bento that serves it. The only module of the pipeline that imports bentoml."""

import os
import platform
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import bentoml
from bentoml.exceptions import NotFound
from bentoml.images import Image

from pipeline.artefacts.files import parts_digest
from pipeline.artefacts.model import model_digest
from pipeline.errors import ArtefactError
from pipeline.export import requirements
from pipeline.export.bundle import Bundle
from pipeline.provenance.lineage import COMMIT_TAG
from pipeline.tracking.tags import DIGEST_TAG

# No telemetry, so that a build waits for no server.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")

SERVICE = "service.app:Foundry"
NAME = "diffusion-foundry"
ROOT = requirements.ROOT
PYTHON = ".".join(platform.python_version_tuple()[:2])


def pack(bundle: Bundle) -> str:
    """Build the Bento of a model, unless BentoML's store has it; returns its tag.

    Raises:
        ArtefactError: the store has another model under the model's tag.
        FoundryError: a package of the service is not installed.
    """
    model = _store_model(bundle)
    packages = requirements.pinned()
    tag = f"{NAME}:{bundle.name}-{bundle.tag}-{_code_digest(packages)[:8]}"
    try:
        return str(bentoml.get(tag).tag)
    except NotFound:
        return _build(tag, model, bundle, packages)


def _store_model(bundle: Bundle) -> str:
    """Put the model into BentoML's store, unless it is there with all its files; returns its tag."""
    tag = f"{bundle.name}:{bundle.tag}"
    path = _stored(tag)
    # An earlier one may lack denoiser.onnx, which needs the export extra.
    if path and not all((path / file.name).exists() for file in bundle.folder.iterdir()):
        bentoml.models.delete(tag)
        path = None
    if path is None:
        with bentoml.models.create(tag, labels=_labels(bundle), metadata=dict(bundle.origin)) as model:
            shutil.copytree(bundle.folder, model.path, dirs_exist_ok=True)
        path = Path(bentoml.models.get(tag).path)
    if (found := model_digest(path)) != bundle.digest:
        raise ArtefactError(f"Bento model {tag}: its digest is {found}, wanted is {bundle.digest}")
    return tag


def _stored(tag: str) -> Path | None:
    try:
        return Path(bentoml.models.get(tag).path)
    except NotFound:
        return None


def _build(tag: str, model: str, bundle: Bundle, packages: list[str]) -> str:
    name, version = tag.split(":")
    with TemporaryDirectory() as folder:
        for path in requirements.sources():
            copied = Path(folder) / path
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, copied)
        service: Any = bentoml.load(SERVICE, working_dir=folder)
        # The versions are exact already, so BentoML need not resolve them, nor record an index.
        image = Image(python_version=PYTHON, lock_python_packages=False)
        service.image = image.python_packages(*packages)
        # bento.yaml cannot hold `service.app.NoLimit`; a served Bento reads its configuration from the code.
        service.config.pop("traffic")
        bento = bentoml.build(
            SERVICE, name=name, version=version, labels=_labels(bundle), models=[model], build_ctx=folder
        )
    return str(bento.tag)


def _labels(bundle: Bundle) -> dict[str, str]:
    """The part of the origin by which Bentos are searched; BentoML limits the length of labels."""
    wanted = ("mlflow.version", DIGEST_TAG, COMMIT_TAG, "decision")
    return {key: bundle.origin[key] for key in wanted if key in bundle.origin}


def _code_digest(packages: list[str]) -> str:
    """The digest of a Bento's content without its model."""
    code = [part for path in requirements.sources() for part in (str(path).encode(), (ROOT / path).read_bytes())]
    return parts_digest([*code, *(line.encode() for line in packages), PYTHON.encode()])
