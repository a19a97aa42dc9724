"""What the store has of the project's runs."""

from typing import Any

from pipeline.tracking import store, titles
from pipeline.tracking.tags import PARENT_TAG

PARAMS = {"train": {"learning_rate": 0.001, "network": {"widths": [32, 64]}, "target": "v"}}


def stored_runs(name: str | None = None) -> list[Any]:
    """Runs in the store, oldest first; those called `name`."""
    client = store.connect()
    found = client.search_runs([store.experiment_id(client)], order_by=["attributes.start_time"])
    return [run for run in found if name in {None, run.info.run_name}]


def curve(run: Any, key: str) -> list[tuple[int, float]]:
    history = store.connect().get_metric_history(run.info.run_id, key)
    return [(metric.step, metric.value) for metric in history]


def parent_of(run: Any) -> Any:
    return store.connect().get_run(run.data.tags[PARENT_TAG])


def pictures_below(pipeline: Any) -> list[Any]:
    return [
        run for run in stored_runs(titles.pictures_name(pipeline.info.run_name)) if parent_of(run).info == pipeline.info
    ]


def files(run: Any, folder: str | None = None) -> list[str]:
    return [file.path for file in store.connect().list_artifacts(run.info.run_id, folder)]
