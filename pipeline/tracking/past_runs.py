"""Queries about the runs in the tracking store: a model's stage runs, their parents, curves and files."""

from pathlib import Path
from typing import Any

from pipeline.provenance.lineage import LOCK_TAG
from pipeline.tracking import store
from pipeline.tracking.tags import DIGEST_TAG, PARENT_TAG, RECIPE_TAG, SOURCE_TAG, STAGE_TAG


class PastRuns:
    """Queries that return runs as MLflow represents them."""

    def __init__(self) -> None:
        self._client = store.connect()
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
