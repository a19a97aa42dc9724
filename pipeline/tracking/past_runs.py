"""Queries about the runs in the tracking store: a model's stage runs, their parents, curves and files."""

import re
from pathlib import Path
from typing import Any

from pipeline.errors import FoundryError
from pipeline.provenance.lineage import LOCK_TAG
from pipeline.tracking import pictures, store
from pipeline.tracking.tags import DIGEST_TAG, HIT_TAG, PARENT_TAG, RECIPE_TAG, SOURCE_TAG, STAGE_TAG

RUN_ID = re.compile("[0-9a-f]{1,32}")
"""An id of MLflow's, or its beginning."""


class PastRuns:
    """Queries that return runs as MLflow represents them."""

    def __init__(self) -> None:
        self._client = store.connect_to_read()
        self._experiment = store.experiment_id(self._client)

    def stage_run(self, stage: str, digest: str) -> Any:
        """The newest finished run of a stage with this model digest, or None."""
        tags = f"tags.`{DIGEST_TAG}` = '{digest}' and tags.`{STAGE_TAG}` = '{stage}'"
        return self._newest(f"{tags} and attributes.status = 'FINISHED'")

    def evaluations(self) -> list[Any]:
        """The newest finished run of `evaluate` of each model whose recipe is known."""
        wanted = f"tags.`{STAGE_TAG}` = 'evaluate' and tags.`{RECIPE_TAG}` LIKE '%' and attributes.status = 'FINISHED'"
        found = self._client.search_runs([self._experiment], wanted)
        return list({run.data.tags[DIGEST_TAG]: run for run in reversed(found)}.values())

    def registration(self, lock_md5: str) -> Any:
        """The newest run of `foundry model register` that logged the dvc.lock with this MD5, or None."""
        return self._newest(f"tags.`{LOCK_TAG}` = '{lock_md5}' and tags.`{SOURCE_TAG}` = 'pipeline.register'")

    def pipelines(self, limit: int) -> list[Any]:
        """The newest runs of pipelines, newest first."""
        wanted = f"tags.`{SOURCE_TAG}` = 'pipeline'"
        return list(self._client.search_runs([self._experiment], wanted, max_results=limit))

    def find(self, text: str) -> Any:
        """The newest pipeline with this name, else the run with this id or beginning of an id.

        A whole name comes first: to a run called `b` the ids that begin with b are nothing.

        Raises:
            FoundryError: there is none, or ids of several runs begin like this.
        """
        # MLflow's filters know no way to write both a quotation mark and a backslash.
        quoted = text.replace("'", "\\'")
        run = (
            None
            if "\\" in text
            else self._newest(f"attributes.run_name = '{quoted}' and tags.`{SOURCE_TAG}` = 'pipeline'")
        )
        if run is None and RUN_ID.fullmatch(text):
            run = self._with_id(text)
        if run is None:
            raise FoundryError(
                f"run {text!r}: {store.tracking_uri()} has no run with this id or name; `foundry runs list` shows them"
            )
        return run

    def _with_id(self, beginning: str) -> Any:
        found = self._client.search_runs([self._experiment], f"attributes.run_id LIKE '{beginning}%'", max_results=2)
        if len(found) > 1:
            raise FoundryError(f"run {beginning}: ids of several runs begin like this: type more of it")
        return found[0] if found else None

    def makers(self, pipeline: Any) -> dict[str, Any]:
        """The run behind the pipeline's result of each stage, by stage: its own run, or that of an earlier pipeline."""
        children = self.children(pipeline.info.run_id)
        stages = {run.data.tags[STAGE_TAG]: run for run in children if STAGE_TAG in run.data.tags}
        hits = ((stage, run, run.data.tags.get(HIT_TAG)) for stage, run in stages.items())
        return {stage: self.run(maker) if maker else run for stage, run, maker in hits}

    def pictures(self, stage_run: Any, key: str) -> dict[int, Path]:
        """Pictures that a stage has logged as `key`, by step: read-only local copies."""
        parent, wanted = stage_run.data.tags.get(PARENT_TAG), f"tags.`{SOURCE_TAG}` = '{pictures.SOURCE}'"
        [run] = self._client.search_runs([self._experiment], f"{wanted} and tags.`{PARENT_TAG}` = '{parent}'") or [None]
        if run is None:
            return {}
        paths = [file.path for file in self._client.list_artifacts(run.info.run_id, pictures.FOLDER)]
        steps = {path: pictures.step_of(path, key) for path in paths}
        return {
            step: Path(self._client.download_artifacts(run.info.run_id, path))
            for path, step in sorted(steps.items(), key=lambda each: each[1] or 0)
            if step is not None
        }

    def _newest(self, wanted: str) -> Any:
        found = self._client.search_runs([self._experiment], wanted, max_results=1)
        return found[0] if found else None

    def run(self, run_id: str) -> Any:
        return self._client.get_run(run_id)

    def parent(self, run: Any) -> Any:
        """The pipeline's run that `run` belongs to, or None."""
        parent = run.data.tags.get(PARENT_TAG)
        return self._client.get_run(parent) if parent else None

    def children(self, run_id: str) -> list[Any]:
        """The stage runs of a pipeline's run, oldest first."""
        wanted = f"tags.`{PARENT_TAG}` = '{run_id}'"
        return list(self._client.search_runs([self._experiment], wanted, order_by=["attributes.start_time"]))

    def curve(self, run: Any, metric: str) -> list[tuple[float, float]]:
        """Steps and values of a metric, ordered by step."""
        points = self._client.get_metric_history(run.info.run_id, metric)
        return sorted((float(point.step), float(point.value)) for point in points)

    def file(self, run: Any, name: str) -> Path | None:
        """A read-only local copy of a run's artefact, or None if the run has no artefact of this name."""
        if name not in {file.path for file in self._client.list_artifacts(run.info.run_id)}:
            return None
        return Path(self._client.download_artifacts(run.info.run_id, name))

    def keep(self, run: Any, path: Path) -> None:
        """Log a file with a run that has ended."""
        self._client.log_artifact(run.info.run_id, str(path))
