"""The two models that a retraining is about, each as far as it is known: the one just made, and the champion before."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.artefacts.files import read_document
from pipeline.artefacts.model import model_digest
from pipeline.errors import FoundryError
from pipeline.provenance import lineage, revisions
from pipeline.registry import versions
from pipeline.registry.registry import Registry, download
from pipeline.registry.versions import Version
from pipeline.tracking.past_runs import PastRuns
from pipeline.tracking.store import StoreError, answering

TRAINED_DIGEST_TAG = "model.trained_digest"


@dataclass(frozen=True, kw_only=True)
class Side:
    """One model. What is not known is empty or None; nothing is made up."""

    name: str
    metrics: Mapping[str, float]
    params: Mapping[str, str] = field(default_factory=dict)
    """By dotted name, as MLflow shows them."""
    loss: Sequence[tuple[float, float]] = ()
    """Images seen, training loss."""
    levels: Sequence[Mapping[str, float]] = ()
    """Rows of loss_per_noise_level.csv."""
    quality: Sequence[Mapping[str, float | str]] = ()
    """Rows of quality_per_num_steps.csv."""
    folder: Path | None = None
    """The model that can be loaded and drawn from."""
    digest: str = ""
    """Of the model as training made it."""
    data_digest: str | None = None
    commit: str | None = None
    lock_stages: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Folders:
    """Where the work tree has its results."""

    model: Path
    prepared: Path
    evaluation: Path
    registration: Path


def work_tree(folders: Folders, decision: Mapping[str, Any] | None) -> Side:
    """The model just made; the store is asked for nothing but its cost.

    Raises:
        ArtefactError: the evaluation or the model is missing or damaged.

    """
    digest, tuned = model_digest(folders.model), folders.registration / "model"
    fits = decision is not None and tuned.is_dir() and model_digest(tuned) == decision.get("model_digest")
    return Side(
        name="this work tree",
        metrics=_numbers(read_document(folders.evaluation / "metrics.json")),
        params=dict(revisions.flattened(lineage.all_params())),
        loss=[(row["images"], row["train/loss"]) for row in _rows(folders.model / "curves.csv")],
        levels=_rows(folders.evaluation / "loss_per_noise_level.csv"),
        quality=_rows(folders.evaluation / "quality_per_num_steps.csv"),
        folder=tuned if fits else folders.model,
        digest=digest,
        data_digest=read_document(folders.prepared / "dataset.json")["digest"],
        commit=lineage.facts().get("git.commit"),
        cost=_known_cost(digest),
    )


def registered(version: Version) -> Side:
    """A registered model, from the registry, its runs and the revisions here.

    Raises:
        StoreError: the registry does not answer.

    """
    with answering():
        return _registered(version, PastRuns())


def _registered(version: Version, past: PastRuns) -> Side:
    digest = version.tags.get(TRAINED_DIGEST_TAG, version.digest)
    trained, judged = past.run(version.run_id), past.stage_run("evaluate", digest)
    parent = past.parent(trained)
    return Side(
        name=str(version),
        metrics=Registry(version.name).metrics(version.number),
        params=dict(parent.data.params) if parent else {},
        loss=past.curve(trained, "train/loss"),
        levels=_rows(past.file(judged, "loss_per_noise_level.csv")) if judged else [],
        quality=_rows(past.file(judged, "quality_per_num_steps.csv")) if judged else [],
        folder=download(version.uri),
        digest=digest,
        data_digest=version.tags.get("data.digest"),
        commit=version.tags.get("git.commit"),
        lock_stages=_lock_stages(version, parent, past),
        cost=cost_of(trained),
    )


def champion_before(
    name: str, decision: Mapping[str, Any] | None, model_digest: str, against: str | None
) -> Version | None:
    """The version to compare with: `against`, or who was champion when it was decided; None where there was none.

    A model that is champion itself is compared with `previous`.

    Raises:
        StoreError: the registry does not answer.

    """
    if against:
        return versions.resolve(against)
    with answering():
        aliases = Registry(name).aliases()
    number = decision.get("champion") if decision else aliases.get("champion")
    found = versions.resolve(f"models:/{name}/{number}") if number else None
    if found is not None and found.digest == model_digest:
        return versions.resolve(f"models:/{name}@previous") if "previous" in aliases else None
    return found


def cost_of(run: Any) -> dict[str, float | str]:
    """What a training took, from its run."""
    params, metrics, tags = run.data.params, run.data.metrics, run.data.tags
    found: dict[str, float | str] = {}
    if seconds := metrics.get("train/seconds"):
        found["training, seconds"] = round(seconds, 1)
        num_images = json.loads(params.get("train.num_images", "null"))
        if num_images:
            found["images a second"] = round(num_images / seconds, 1)
    found |= {key: value for key, value in metrics.items() if key.endswith(("energy_wh", "energy_joule"))}
    found |= {key.removeprefix("machine."): value for key, value in tags.items() if key.startswith("machine.")}
    return found


def _known_cost(digest: str) -> dict[str, float | str]:
    try:
        with answering():
            run = PastRuns().stage_run("train", digest)
    except StoreError:
        return {}
    return cost_of(run) if run else {}


def _lock_stages(version: Version, parent: Any, past: PastRuns) -> dict[str, Any]:
    """The stages of the dvc.lock that the version was registered with, where it still can be had."""
    if parent is not None and (file := past.file(parent, revisions.LOCK)):
        return revisions.stages_of(file.read_text(encoding="utf-8"))
    md5 = version.tags.get("dvc.lock.md5")
    commit = lineage.commit_of_lock(md5) if md5 else None
    if commit is None:
        return {}
    try:
        return revisions.stages_of(revisions.git("show", f"{commit}:{revisions.LOCK}"))
    except FoundryError:
        return {}


def _numbers(document: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in document.items() if isinstance(value, int | float)}


def _rows(path: Path | None) -> list[dict[str, Any]]:
    """Rows of a CSV file with numbers as numbers; none where there is no file."""
    if path is None or not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
