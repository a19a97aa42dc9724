"""What the tracking store remembers of a model: the runs that trained and judged it, their curves and files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.registry.registry import LOGGED_MODEL
from pipeline.registry.versions import Version
from pipeline.tracking import store
from pipeline.tracking.tags import DIGEST_TAG, PARENT_TAG, STAGE_TAG


class PastRuns:
    """Questions to the store, of runs as MLflow gives them."""

    def __init__(self) -> None:
        self._client = store.connect()
        self._experiment = store.experiment_id(self._client)

    def stage_run(self, stage: str, digest: str) -> Any:
        """The newest finished run of a stage that was about the model with this digest; None where there is none."""
        wanted = (
            f"tags.`{DIGEST_TAG}` = '{digest}' and tags.`{STAGE_TAG}` = '{stage}' and attributes.status = 'FINISHED'"
        )
        found = self._client.search_runs([self._experiment], wanted, max_results=1)
        return found[0] if found else None

    def aliases(self, name: str) -> dict[str, str]:
        """Version by alias of a registered model; none where there is no such model."""
        found = self._client.search_registered_models(f"name = '{name}'")
        # A search leaves the aliases out.
        aliases = self._client.get_registered_model(name).aliases if found else {}
        return {alias: str(number) for alias, number in aliases.items()}

    def metrics(self, version: Version) -> dict[str, float]:
        """The metrics that the model of a version was registered with."""
        source = str(self._client.get_model_version(version.name, version.number).source)
        if not source.startswith(LOGGED_MODEL):
            return {}  # registered by other means
        metrics = self._client.get_logged_model(source.removeprefix(LOGGED_MODEL)).metrics
        return {metric.key: metric.value for metric in metrics or []}

    def run(self, run_id: str) -> Any:
        return self._client.get_run(run_id)

    def parent(self, run: Any) -> Any:
        """The run of the pipeline; None where a run stands by itself."""
        parent = run.data.tags.get(PARENT_TAG)
        return self._client.get_run(parent) if parent else None

    def children(self, run_id: str) -> list[Any]:
        """The runs below a pipeline's, oldest first."""
        wanted = f"tags.`{PARENT_TAG}` = '{run_id}'"
        return list(self._client.search_runs([self._experiment], wanted, order_by=["attributes.start_time"]))

    def curve(self, run: Any, metric: str) -> list[tuple[float, float]]:
        """Steps and values."""
        points = self._client.get_metric_history(run.info.run_id, metric)
        return sorted((float(point.step), float(point.value)) for point in points)

    def file(self, run: Any, name: str) -> Path | None:
        """An artefact of a run, only to be read; None where it has none of this name."""
        if name not in {file.path for file in self._client.list_artifacts(run.info.run_id)}:
            return None
        return Path(self._client.download_artifacts(run.info.run_id, name))

    def keep(self, run: Any, path: Path, tags: Mapping[str, str] | None = None) -> None:
        """Log a file with a run that has ended."""
        self._client.log_artifact(run.info.run_id, str(path))
        for key, value in (tags or {}).items():
            self._client.set_tag(run.info.run_id, key, value)
