"""Summaries of the two models of a retraining report: the one in the work tree, and the champion it competed with."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.artefacts.files import read_document
from pipeline.artefacts.model import model_digest
from pipeline.errors import FoundryError
from pipeline.evaluation.results import read_results
from pipeline.provenance import lineage
from pipeline.provenance.dvc import LOCK, stages_of
from pipeline.provenance.git import git
from pipeline.provenance.lineage import COMMIT_TAG, LOCK_TAG
from pipeline.provenance.revisions import commit_of_lock
from pipeline.registry import versions
from pipeline.registry.registry import Registry
from pipeline.registry.versions import Version, download
from pipeline.tracking.past_runs import PastRuns
from pipeline.tracking.store import StoreError, answering
from pipeline.tracking.tags import DATA_TAG, TRAINED_DIGEST_TAG


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """What the report shows of one model; unknown facts are empty or None."""

    name: str
    metrics: Mapping[str, float]
    params: Mapping[str, str] = field(default_factory=dict)
    """Values by dotted name, as in MLflow."""
    loss: Sequence[tuple[float, float]] = ()
    """Pairs of images seen and training loss."""
    levels: Sequence[Mapping[str, float]] = ()
    """Rows of loss_per_noise_level.csv."""
    quality: Sequence[Mapping[str, float | str]] = ()
    """Rows of quality_per_num_rows.csv."""
    folder: Path | None = None
    """The model folder."""
    digest: str = ""
    """Digest of the model as trained, before tuning."""
    data_digest: str | None = None
    commit: str | None = None
    lock_stages: Mapping[str, Any] = field(default_factory=dict)
    """Stages of the dvc.lock that made it."""
    cost: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def is_distilled(self) -> bool:
        """Whether the model is a student, whose losses are its teacher's."""
        return json.loads(self.params.get("distil.steps", "null")) is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Folders:
    """Folders with the results of the work tree."""

    model: Path
    prepared: Path
    evaluation: Path
    registration: Path


def summarize_work_tree(folders: Folders, decision: Mapping[str, Any] | None) -> ModelSummary:
    """Summarize the model in the work tree; only its cost comes from the tracking store.

    Raises:
        ArtefactError: the evaluation or the model is missing or damaged.
    """
    digest, tuned = model_digest(folders.model), folders.registration / "model"
    is_tuned = decision is not None and tuned.is_dir() and model_digest(tuned) == decision.get("model_digest")
    return ModelSummary(
        name="this work tree",
        metrics=read_results(folders.evaluation),
        params=dict(lineage.flat_params(lineage.all_params())),
        loss=[(row["images"], row["train/loss"]) for row in csv_rows(folders.model / "curves.csv")],
        levels=csv_rows(folders.evaluation / "loss_per_noise_level.csv"),
        quality=csv_rows(folders.evaluation / "quality_per_num_rows.csv"),
        folder=tuned if is_tuned else folders.model,
        digest=digest,
        data_digest=read_document(folders.prepared / "dataset.json")["digest"],
        commit=lineage.facts().get(COMMIT_TAG),
        cost=_known_cost(digest),
    )


def summarize_version(version: Version) -> ModelSummary:
    """Summarize a registered model from the registry, its runs and git.

    Raises:
        StoreError: the registry does not answer.
    """
    with answering():
        past = PastRuns()
        digest = version.tags.get(TRAINED_DIGEST_TAG, version.digest)
        trained, evaluated = past.run(version.training_run), past.stage_run("evaluate", digest)
        parent = past.parent(trained)
        return ModelSummary(
            name=str(version),
            metrics=Registry(version.name).metrics(version.number),
            params=dict(parent.data.params) if parent else {},
            loss=past.curve(trained, "train/loss"),
            levels=csv_rows(past.file(evaluated, "loss_per_noise_level.csv")) if evaluated else [],
            quality=csv_rows(past.file(evaluated, "quality_per_num_rows.csv")) if evaluated else [],
            folder=download(version.uri),
            digest=digest,
            data_digest=version.tags.get(DATA_TAG),
            commit=version.tags.get(COMMIT_TAG),
            lock_stages=_lock_stages(version, parent, past),
            cost=_cost(trained),
        )


def version_to_compare(
    name: str, decision: Mapping[str, Any] | None, model_digest: str, against: str | None
) -> Version | None:
    """Find the version to compare the work tree with; None if there is none.

    That is `against` if given, else the champion at the time of the decision, else today's champion. If that version is
    the work tree's own model, it is compared with `previous`.

    Raises:
        StoreError: the registry does not answer.
    """
    if against:
        return versions.resolve(against)
    with answering():
        aliases = Registry(name).aliases.current()
    number = decision.get("champion") if decision else aliases.get("champion")
    found = versions.resolve(f"models:/{name}/{number}") if number else None
    if found is not None and found.digest == model_digest:
        return versions.resolve(f"models:/{name}/{aliases['previous']}") if "previous" in aliases else None
    return found


def _cost(run: Any) -> dict[str, float | str]:
    """Duration, throughput, energy and machine of a training run."""
    params, metrics, tags = run.data.params, run.data.metrics, run.data.tags
    cost: dict[str, float | str] = {}
    if seconds := metrics.get("train/seconds"):
        cost["training time, s"] = round(seconds, 1)
        if num_images := json.loads(params.get("train.num_images", "null")):
            cost["images per second"] = round(num_images / seconds, 1)
    cost |= {key: value for key, value in metrics.items() if key.endswith(("energy_wh", "energy_joule"))}
    return cost | {key.removeprefix("machine."): value for key, value in tags.items() if key.startswith("machine.")}


def _known_cost(digest: str) -> dict[str, float | str]:
    try:
        with answering():
            run = PastRuns().stage_run("train", digest)
    except StoreError:
        return {}
    return _cost(run) if run else {}


def _lock_stages(version: Version, parent: Any, past: PastRuns) -> dict[str, Any]:
    """Stages of the dvc.lock that the version was registered with; empty if no copy of the file exists any more."""
    md5 = version.tags.get(LOCK_TAG)
    for run in (past.registration(md5) if md5 else None, parent):
        if run is not None and (file := past.file(run, LOCK)):
            return stages_of(file.read_text(encoding="utf-8"))
    commit = commit_of_lock(md5) if md5 else None
    if commit is None:
        return {}
    try:
        return stages_of(git("show", f"{commit}:{LOCK}"))
    except FoundryError:
        return {}


def csv_rows(path: Path | None) -> list[dict[Any, Any]]:
    """Read a CSV file; no rows if there is no file."""
    return pd.read_csv(path).to_dict("records") if path is not None and path.is_file() else []
