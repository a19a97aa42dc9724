"""Lists the newest pipelines in MLflow with their figures and registered versions."""

import sys
from datetime import UTC, datetime
from typing import Any

from pipeline.evaluation.figures import FIGURES
from pipeline.provenance.lineage import COMMIT_TAG
from pipeline.registry import versions
from pipeline.registry.versions import Version
from pipeline.tracking import store
from pipeline.tracking.past_runs import PastRuns

SHOWN_FIGURES = ("kid", "frechet_distance")
HEADER = ("run", "started", "name", "status", "commit", *(FIGURES[name].title for name in SHOWN_FIGURES), "registered")


def main(limit: int) -> None:
    with store.answering():
        past = PastRuns()
        pipelines = past.pipelines(limit)
        parents = {run.info.run_id: each.info.run_id for each in pipelines for run in past.children(each.info.run_id)}
    registered = {parents[version.run_id]: version for version in versions.of_runs(parents)}
    rows = [HEADER, *(_row(run, registered.get(run.info.run_id)) for run in pipelines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        sys.stdout.write("  ".join(map(str.ljust, row, widths)).rstrip() + "\n")


def _row(run: Any, version: Version | None) -> tuple[str, ...]:
    started = datetime.fromtimestamp(run.info.start_time / 1000, UTC).astimezone()
    values = ((name, run.data.metrics.get(f"evaluate/{name}")) for name in SHOWN_FIGURES)
    aliases = f" ({', '.join(version.aliases)})" if version and version.aliases else ""
    return (
        run.info.run_id[:12],
        f"{started:%Y-%m-%d %H:%M}",
        run.info.run_name,
        run.info.status.lower(),
        run.data.tags.get(COMMIT_TAG, "")[:7],
        *("" if value is None else format(value, FIGURES[name].format) for name, value in values),
        f"{version}{aliases}" if version else "",
    )
