"""What was decided about a registered model, one entry after the other, never changed: `promotions.jsonl`.

Each entry is a tag of one MLflow run, which the store writes whole or not at all; the artefact `promotions.jsonl` of
that run is written anew from all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

LEDGER_TAG, ENTRY_TAG = "foundry.ledger", "promotion."
FILE = "promotions.jsonl"


class Ledger:
    """The entries of one registered model; who writes holds the claim on it."""

    def __init__(self, client: Any, experiment: str, name: str) -> None:
        self._client, self._experiment, self._name = client, experiment, name

    def entries(self) -> list[dict[str, Any]]:
        """Oldest first."""
        run = self._run()
        tags = {} if run is None else run.data.tags
        return [json.loads(tags[key]) for key in sorted(tags) if key.startswith(ENTRY_TAG)]

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add an entry, at once and whole."""
        number = len(self.entries()) + 1
        self._client.set_tag(self._run_id(), f"{ENTRY_TAG}{number:06}", json.dumps(entry, sort_keys=True))

    def write_file(self) -> None:
        """Let the artefact say what the entries say."""
        self._client.log_text(self._run_id(), as_lines(self.entries()), FILE)

    def _run(self) -> Any:
        wanted = f"tags.`{LEDGER_TAG}` = '{self._name}'"
        found = self._client.search_runs([self._experiment], wanted, order_by=["attributes.start_time"], max_results=1)
        return found[0] if found else None

    def _run_id(self) -> str:
        run = self._run()
        if run is None:
            tags = {LEDGER_TAG: self._name, "mlflow.source.name": "pipeline.register"}
            run = self._client.create_run(self._experiment, tags=tags, run_name="promotions")
            self._client.set_terminated(run.info.run_id, "FINISHED")
        return str(run.info.run_id)


def as_lines(entries: Iterable[Mapping[str, Any]]) -> str:
    """A line of JSON an entry."""
    return "".join(f"{json.dumps(entry, sort_keys=True)}\n" for entry in entries)
