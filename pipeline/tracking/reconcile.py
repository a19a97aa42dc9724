"""One truth for experiments: what `dvc exp show` has a row for is one pipeline in MLflow with a run for every stage.

A stage that DVC takes from its cache runs no code, and so leaves no run. Here such a stage gets a run below its
pipeline's, a *cache hit*, linked to the run that made its outcome, with that run's params and metrics. Outcomes whose
run is not in the store are *lost*; runs whose outcome no revision here has are *foreign*. Neither is changed.

Doing it twice changes nothing.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import yaml

from pipeline.provenance import revisions
from pipeline.provenance.lineage import main_worktree, worktree
from pipeline.provenance.revisions import Revision
from pipeline.provenance.stage_key import KEY_TAG, key_of_entry
from pipeline.tracking import store
from pipeline.tracking.outbox import locked
from pipeline.tracking.shipper import RUN_TAG, WORKTREE_TAG
from pipeline.tracking.tags import PARENT_TAG, STAGE_TAG

HIT_TAG = "dvc.cache_hit"
"""Of a run that stands for a stage taken from the cache: the run that made its outcome."""
SHOWN_TAG = "dvc.shown_as"
"""Of a pipeline's run: its rows in `dvc exp show`."""
LOCK_TAG = "dvc.lock.after"
"""Of a pipeline's run: MD5 of the dvc.lock that it led to, which is kept with it."""
EXPERIMENT_TAG = "dvc.exp.name"
NOT_COPIED = {"train/grad_norm", "train/learning_rate"}


@dataclass
class Findings:
    """What was done, and what cannot be."""

    linked: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def lines(self) -> Iterable[str]:
        """For reading."""
        for word in ("linked", "lost", "foreign"):
            yield from (f"{word:<9}{line}" for line in getattr(self, word))
        yield f"{len(self.linked)} linked, {len(self.lost)} lost, {len(self.foreign)} foreign"


def reconcile() -> Findings:
    """Bring the store in line with the workspace, HEAD and all experiments.

    Raises:
        StoreError: the store does not answer.
        RevisionError: this is no git repository.

    """
    shown = revisions.shown_revisions()
    with store.answering(), locked(main_worktree() / ".foundry" / "ship.lock"):
        return _Reconciliation(shown).findings()


class _Reconciliation:
    def __init__(self, shown: list[Revision]) -> None:
        self._shown = shown
        self._client = store.connect()
        self._experiment = store.experiment_id(self._client)
        self._findings = Findings()
        self._runs = self._all_runs()

    def findings(self) -> Findings:
        names: dict[str, list[str]] = {}
        for revision in self._shown:
            keys = keys_of(revision)
            pipeline = self._pipeline_of(revision, keys)
            for stage, key in keys.items():
                self._account_for(revision, stage, key, pipeline)
            if pipeline is not None:
                names.setdefault(pipeline.info.run_id, []).append(revision.name)
                self._keep_lock(pipeline, revision)
        for run_id, shown_as in names.items():
            self._client.set_tag(run_id, SHOWN_TAG, ", ".join(shown_as))
        self._findings.foreign += self._foreign()
        return self._findings

    def _all_runs(self) -> list[Any]:
        """The newest first."""
        found: list[Any] = []
        token = None
        while True:
            page = self._client.search_runs([self._experiment], max_results=1000, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    @cached_property
    def _makers(self) -> dict[str, Any]:
        """The newest run that made each outcome, by key."""
        return {run.data.tags[KEY_TAG]: run for run in reversed(self._runs) if _has_made(run)}

    def _pipeline_of(self, revision: Revision, keys: Mapping[str, str]) -> Any:
        """The run of the pipeline that led to this revision; made where only the cache did; None where it is lost."""
        if revision.is_experiment:
            mine = [run for run in self._runs if run.data.tags.get(EXPERIMENT_TAG) == revision.name]
            parents = [run for run in mine if PARENT_TAG not in run.data.tags and self._led_to(run, keys)]
            return parents[0] if parents else self._new_pipeline(revision, keys)
        last = self._makers.get(list(keys.values())[-1]) if keys else None
        parent = last.data.tags.get(PARENT_TAG) if last else None
        return self._by_id.get(parent) if parent else None

    @property
    def _by_id(self) -> dict[str, Any]:
        return {run.info.run_id: run for run in self._runs}

    def _led_to(self, parent: Any, keys: Mapping[str, str]) -> bool:
        """Every stage below this pipeline's run has made, or taken, what the revision has."""
        below = {run.data.tags[KEY_TAG] for run in self._below(parent) if KEY_TAG in run.data.tags}
        return bool(below) and below <= set(keys.values())

    def _below(self, parent: Any) -> list[Any]:
        return [run for run in self._runs if run.data.tags.get(PARENT_TAG) == parent.info.run_id]

    def _account_for(self, revision: Revision, stage: str, key: str, pipeline: Any) -> None:
        """Find the stage below the pipeline's run, or put a cache hit there, or say that it is lost."""
        maker = self._makers.get(key)
        if maker is None:
            self._findings.lost.append(f"{revision.name}: {stage}: DVC has its outcome, the store no run that made it")
        elif pipeline is not None and key not in {run.data.tags.get(KEY_TAG) for run in self._below(pipeline)}:
            self._link(stage, key, maker, pipeline)
            self._findings.linked.append(f"{revision.name}: {stage}: made by run {maker.info.run_id}")

    def _link(self, stage: str, key: str, maker: Any, pipeline: Any) -> None:
        """A run that says: this stage came from the cache, and that run had made it."""
        tags = {PARENT_TAG: pipeline.info.run_id, STAGE_TAG: stage, KEY_TAG: key, HIT_TAG: maker.info.run_id}
        tags |= {"mlflow.source.name": f"pipeline.{stage}", WORKTREE_TAG: worktree(), RUN_TAG: uuid.uuid4().hex}
        run_id = self._create(f"{stage} (cached)", pipeline.info.start_time, tags)
        for name, value in maker.data.params.items():
            self._client.log_param(run_id, name, value)
        for name, value in maker.data.metrics.items():
            self._client.log_metric(run_id, name, value)
            if name not in pipeline.data.metrics and name not in NOT_COPIED:
                self._client.log_metric(pipeline.info.run_id, name, value)
        self._finish(run_id, pipeline.info.start_time)

    def _new_pipeline(self, revision: Revision, keys: Mapping[str, str]) -> Any:
        """The run of an experiment that DVC took from its cache as a whole; None where nothing of it is known."""
        makers = [self._makers[key] for key in keys.values() if key in self._makers]
        if not makers or revision.commit is None:
            return None
        tags = {
            EXPERIMENT_TAG: revision.name,
            "git.commit": revision.commit,
            "git.dirty": "false",
            HIT_TAG: makers[-1].info.run_id,
            "mlflow.source.name": "pipeline",
            WORKTREE_TAG: worktree(),
            RUN_TAG: uuid.uuid4().hex,
        }
        run_id = self._create(revision.name, makers[-1].info.start_time, tags)
        params = yaml.safe_load(revisions.git("show", f"{revision.commit}:params.yaml"))
        for name, value in revisions.flattened(params):
            self._client.log_param(run_id, name, value)
        self._finish(run_id, makers[-1].info.start_time)
        return self._by_id[run_id]

    def _create(self, name: str, time: int, tags: Mapping[str, str]) -> str:
        run = self._client.create_run(self._experiment, time, dict(tags), run_name=name)
        return str(run.info.run_id)

    def _finish(self, run_id: str, time: int) -> None:
        """End it in the moment in which it began, for nothing was done."""
        self._client.set_terminated(run_id, "FINISHED", time)
        self._runs = [self._client.get_run(run_id), *self._runs]

    def _keep_lock(self, pipeline: Any, revision: Revision) -> None:
        """Keep dvc.lock with the run: with it a checkout finds all outcomes."""
        if LOCK_TAG not in pipeline.data.tags:
            md5 = hashlib.md5(revision.lock.encode(), usedforsecurity=False).hexdigest()
            self._client.log_text(pipeline.info.run_id, revision.lock, revisions.LOCK)
            self._client.set_tag(pipeline.info.run_id, LOCK_TAG, md5)

    def _foreign(self) -> Iterable[str]:
        """Runs of stages whose outcome no revision here has, with what is known of them."""
        here = {key for revision in revisions.all_revisions() for key in keys_of(revision).values()}
        for run in self._runs:
            tags = run.data.tags
            if STAGE_TAG not in tags or run.info.status != "FINISHED" or tags.get(KEY_TAG) in here:
                continue
            yield f"{run.info.run_name} {run.info.run_id}: {_why_foreign(tags)}"


def _has_made(run: Any) -> bool:
    return run.info.status == "FINISHED" and KEY_TAG in run.data.tags and HIT_TAG not in run.data.tags


def _why_foreign(tags: Mapping[str, str]) -> str:
    place = tags.get(WORKTREE_TAG, "an unknown place")
    if place != worktree():
        return f"made in {place}"
    if KEY_TAG not in tags:
        return "not run by DVC, or before runs had keys"
    experiment = tags.get(EXPERIMENT_TAG)
    return f"its outcome is in no dvc.lock here{f' (experiment {experiment})' if experiment else ''}"


def keys_of(revision: Revision) -> dict[str, str]:
    """The key of each stage, in the order in which they run."""
    stages = revisions.stages_of(revision.lock)
    return {stage: key_of_entry(stages[stage]) for stage in _in_order(stages)}


def _in_order(stages: Mapping[str, Any]) -> list[str]:
    """A stage comes after those whose outs it reads."""
    outs = {str(out["path"]): name for name, entry in stages.items() for out in entry.get("outs", [])}
    ordered: list[str] = []

    def place(name: str) -> None:
        for dep in stages[name].get("deps", []):
            maker = outs.get(str(dep["path"]))
            if maker and maker != name and maker not in ordered:
                place(maker)
        if name not in ordered:
            ordered.append(name)

    for name in stages:
        place(name)
    return ordered
