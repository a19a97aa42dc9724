"""Completes the runs in MLflow: every row of `dvc exp show` becomes one pipeline with a run for each stage.

A stage that DVC takes from its cache runs no code and leaves no run. Here such a stage gets a run below its pipeline's, a
*cache hit*, linked to the run that made its result, with the params and metrics of that run. Results whose run is not in
the store are *lost*; runs whose result no revision of this repository has are *foreign*. Neither is changed.

A second call changes nothing.
"""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.artefacts.files import locked
from pipeline.provenance import revisions
from pipeline.provenance.dvc import LOCK, md5, parse_yaml
from pipeline.provenance.git import git, main_worktree, worktree
from pipeline.provenance.lineage import COMMIT_TAG, EXPERIMENT_TAG, flat_params
from pipeline.provenance.revisions import Revision
from pipeline.provenance.stage_key import keys_of
from pipeline.tracking import store
from pipeline.tracking.tags import (
    DIRTY_TAG,
    HIT_TAG,
    KEY_TAG,
    LOCK_AFTER_TAG,
    PARENT_TAG,
    RUN_TAG,
    SHOWN_TAG,
    SOURCE_TAG,
    STAGE_TAG,
    WORKTREE_TAG,
)

NOT_COPIED = {"train/grad_norm", "train/learning_rate"}
LOAD = "system/"
"""Prefix of the metrics of the machine on which the result was made."""
MAX_RUNS = 10_000_000
"""More than a store has: MLflow's own limit, 100,000, would leave out the oldest."""


@dataclass
class Findings:
    """Cache hits that were linked, and the lost and foreign runs."""

    linked: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def lines(self) -> Iterable[str]:
        """One line per finding, and the sums."""
        for word in ("linked", "lost", "foreign"):
            yield from (f"{word:<9}{line}" for line in getattr(self, word))
        yield f"{len(self.linked)} linked, {len(self.lost)} lost, {len(self.foreign)} foreign"


def reconcile() -> Findings:
    """Complete the runs of the workspace, HEAD and all experiments.

    Raises:
        StoreError: the store does not answer.
        GitError: this is no git repository.
    """
    shown = revisions.shown_revisions()
    with store.answering(), locked(main_worktree() / ".foundry" / "ship.lock"):
        return _Reconciliation().findings(shown)


class _Reconciliation:
    """The runs of the store, indexed by all keys by which they are searched."""

    def __init__(self) -> None:
        self._client = store.connect()
        self._experiment = store.experiment_id(self._client)
        self._findings = Findings()
        self._runs: dict[str, Any] = {}
        self._children: dict[str, list[Any]] = defaultdict(list)
        self._experiments: dict[str, list[Any]] = defaultdict(list)
        self._makers: dict[str, Any] = {}
        every = {"max_results": MAX_RUNS, "output_format": "list"}
        for run in reversed(store.mlflow().search_runs([self._experiment], **every)):
            self._add(run)

    def findings(self, shown: Iterable[Revision]) -> Findings:
        rows: dict[str, list[str]] = defaultdict(list)
        for revision in shown:
            keys = keys_of(revision.lock)
            pipeline = self._pipeline_of(revision, keys)
            for stage, key in keys.items():
                self._account_for(revision, stage, key, pipeline)
            if pipeline is not None:
                rows[pipeline.info.run_id].append(revision.name)
                self._keep_lock(pipeline, revision)
        for run_id, names in rows.items():
            self._client.set_tag(run_id, SHOWN_TAG, ", ".join(names))
        self._findings.foreign += self._foreign()
        return self._findings

    def _add(self, run: Any) -> None:
        """Index a run; of several that made the same result, the last one counts."""
        tags = run.data.tags
        self._runs[run.info.run_id] = run
        if PARENT_TAG in tags:
            self._children[tags[PARENT_TAG]].append(run)
        elif EXPERIMENT_TAG in tags:
            self._experiments[tags[EXPERIMENT_TAG]].append(run)
        if run.info.status == "FINISHED" and KEY_TAG in tags and HIT_TAG not in tags:
            self._makers[tags[KEY_TAG]] = run

    def _keys_below(self, pipeline: Any) -> set[str]:
        children = self._children[pipeline.info.run_id]
        return {run.data.tags[KEY_TAG] for run in children if KEY_TAG in run.data.tags}

    def _pipeline_of(self, revision: Revision, keys: Mapping[str, str]) -> Any:
        """The run of the pipeline that led to this revision, created if DVC ran no stage; None if it is lost."""
        if not revision.is_experiment:
            last = self._makers.get(list(keys.values())[-1]) if keys else None
            return self._runs.get(last.data.tags.get(PARENT_TAG)) if last else None
        for pipeline in reversed(self._experiments[revision.name]):
            below = self._keys_below(pipeline)
            if below and below <= set(keys.values()):
                return pipeline
        return self._create_pipeline(revision, keys)

    def _account_for(self, revision: Revision, stage: str, key: str, pipeline: Any) -> None:
        """Add a cache hit for a stage that has no run below the pipeline's, or report it as lost."""
        maker = self._makers.get(key)
        if maker is None:
            self._findings.lost.append(f"{revision.name}: {stage}: DVC has its result, the store no run that made it")
        elif pipeline is not None and key not in self._keys_below(pipeline):
            self._create_hit(stage, key, maker, pipeline)
            self._findings.linked.append(f"{revision.name}: {stage}: made by run {maker.info.run_id}")

    def _create_hit(self, stage: str, key: str, maker: Any, pipeline: Any) -> None:
        """Create the run of a stage that was taken from the cache."""
        tags = {PARENT_TAG: pipeline.info.run_id, STAGE_TAG: stage, KEY_TAG: key, HIT_TAG: maker.info.run_id}
        source = {SOURCE_TAG: f"pipeline.{stage}"}
        hit = self._create(f"{stage} (cached)", pipeline.info.start_time, tags | source, maker.data.params)
        figures = {name: value for name, value in maker.data.metrics.items() if not name.startswith(LOAD)}
        for name, value in figures.items():
            self._client.log_metric(hit.info.run_id, name, value)
            if name not in pipeline.data.metrics and name not in NOT_COPIED:
                self._client.log_metric(pipeline.info.run_id, name, value)

    def _create_pipeline(self, revision: Revision, keys: Mapping[str, str]) -> Any:
        """Create the run of an experiment of which DVC took all from its cache; None if nothing of it is known."""
        makers = [self._makers[key] for key in keys.values() if key in self._makers]
        if not makers or revision.commit is None:
            return None
        tags = {EXPERIMENT_TAG: revision.name, COMMIT_TAG: revision.commit, DIRTY_TAG: "false"}
        source = {HIT_TAG: makers[-1].info.run_id, SOURCE_TAG: "pipeline"}
        params = parse_yaml(git("show", f"{revision.commit}:params.yaml", folder=main_worktree()))
        return self._create(revision.name, makers[-1].info.start_time, tags | source, dict(flat_params(params)))

    def _create(self, name: str, time: int, tags: Mapping[str, str], params: Mapping[str, str]) -> Any:
        """Create a run that ends when it begins, as nothing was done."""
        own = {WORKTREE_TAG: worktree(), RUN_TAG: uuid.uuid4().hex}
        run_id = self._client.create_run(self._experiment, time, {**tags, **own}, run_name=name).info.run_id
        for key, value in params.items():
            self._client.log_param(run_id, key, value)
        self._client.set_terminated(run_id, "FINISHED", time)
        run = self._client.get_run(run_id)
        self._add(run)
        return run

    def _keep_lock(self, pipeline: Any, revision: Revision) -> None:
        """Log dvc.lock with the run: `foundry runs restore` finds all results by it."""
        if LOCK_AFTER_TAG not in pipeline.data.tags:
            self._client.log_text(pipeline.info.run_id, revision.lock, LOCK)
            self._client.set_tag(pipeline.info.run_id, LOCK_AFTER_TAG, md5(revision.lock.encode()))

    def _foreign(self) -> Iterable[str]:
        """A line for each finished stage run whose result no revision of this repository has, newest first."""
        here = {key for revision in revisions.all_revisions() for key in keys_of(revision.lock).values()}
        for run_id, run in reversed(self._runs.items()):
            tags = run.data.tags
            if STAGE_TAG in tags and run.info.status == "FINISHED" and tags.get(KEY_TAG) not in here:
                yield f"{run.info.run_name} {run_id}: {_why_foreign(tags)}"


def _why_foreign(tags: Mapping[str, str]) -> str:
    place = tags.get(WORKTREE_TAG, "an unknown place")
    if place != worktree():
        return f"made in {place}"
    if KEY_TAG not in tags:
        return "not run by DVC, or before runs had keys"
    experiment = tags.get(EXPERIMENT_TAG)
    return f"its result is in no dvc.lock here{f' (experiment {experiment})' if experiment else ''}"
