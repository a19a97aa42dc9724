"""Puts a registered model where trainings begin with its weights: `foundry set --start-from champion`.

Reads: the registry
Writes: data/ancestor/model, and data/ancestor/model.dvc, by which DVC knows it

An alias is resolved here and now: what the stage `train` depends on is the model, which no later promotion changes.
"""

import shutil
from pathlib import Path

from pipeline.artefacts.model import DESCRIPTION, WEIGHTS, load_model
from pipeline.errors import ArtefactError, FoundryError
from pipeline.provenance.dvc import dvc
from pipeline.registry.versions import Version, download, resolve
from pipeline.training.ancestor import MODEL

PLACE = Path("data/ancestor") / MODEL
CHAMPION = "champion"


def find(name: str, model_name: str) -> tuple[Version, Path]:
    """The version of `champion` (of `model_name`) or of a URI, and its checked model folder.

    Raises:
        FoundryError: it is a student, whose network denoises at few noise levels alone.
        ArtefactError: it is damaged, or not the model that was registered.
        StoreError: the registry does not have it, or does not answer.
    """
    version = resolve(f"models:/{model_name}@{CHAMPION}" if name == CHAMPION else name)
    folder = download(version.uri)
    model = load_model(folder)
    if model.digest != version.digest:
        raise ArtefactError(f"{version}: holds model {model.digest[:12]}, registered was {version.digest[:12]}")
    if model.description.is_distilled:
        raise FoundryError(
            f"--start-from: {version} is a student, which denoises at few noise levels alone; "
            "start from a version that is none"
        )
    return version, folder


def place(folder: Path) -> None:
    """Put the model in `folder` into data/ancestor, in the place of another one, and record it with DVC."""
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    for name in (DESCRIPTION, WEIGHTS):
        shutil.copyfile(folder / name, PLACE / name)
    dvc("add", "--quiet", str(PLACE))
