"""The workflows call commands that exist, and check where a champion is stored before they train. zizmor checks the rest."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}
JOBS = [(name, key, job) for name, workflow in WORKFLOWS.items() for key, job in workflow["jobs"].items()]
COMMANDS = [(f"{name}.{key}", step["run"]) for name, key, job in JOBS for step in job.get("steps", []) if "run" in step]


@pytest.mark.parametrize(("place", "command"), COMMANDS)
def test_a_step_is_one_command_that_runs_on_a_laptop(place: str, command: str) -> None:
    assert "\n" not in command, place
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    words = command.split()
    assert {words[i + 1] for i, word in enumerate(words) if word == "make"} <= targets, place
    assert words[0] in {"make", "gh"} or os.access(ROOT / words[0], os.X_OK), place


@pytest.mark.parametrize("name", ["retrain", "release", "drift"])
def test_a_workflow_with_rights_is_not_started_by_pull_requests(name: str) -> None:
    # YAML 1.1 reads `on` as true.
    triggers = set(WORKFLOWS[name][True])
    assert not {"pull_request", "pull_request_target", "workflow_run", "issue_comment"} & triggers


def test_retraining_checks_the_stores_first_and_keeps_the_state_of_a_killed_training() -> None:
    steps: list[dict[str, Any]] = WORKFLOWS["retrain"]["jobs"]["retrain"]["steps"]
    runs = [step.get("run") or step["uses"].split("@")[0] for step in steps]
    assert runs.index("make remotes") < runs.index("actions/cache/restore") < runs.index("make retrain")
    (save,) = (step for step in steps if step.get("uses", "").startswith("actions/cache/save"))
    assert "always()" in save["if"]
    assert save["with"]["path"] == ".foundry/training"


def test_only_an_accepted_model_is_released() -> None:
    assert WORKFLOWS["retrain"]["jobs"]["release"]["if"] == "${{ needs.retrain.outputs.decision == 'accept' }}"
