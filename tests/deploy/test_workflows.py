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


def test_actions_are_pinned_by_commit() -> None:
    used = [step["uses"] for _, _, job in JOBS for step in job.get("steps", []) if "uses" in step]
    assert [each for each in used if not re.fullmatch(r"actions/[a-z-]+(/[a-z]+)?@[0-9a-f]{40}", each)] == []


def test_a_called_release_has_the_secrets_of_its_environment() -> None:
    assert WORKFLOWS["retrain"]["jobs"]["release"]["secrets"] == "inherit"


def test_the_nightly_comparison_waits_for_no_reviewer() -> None:
    environments = {f"{name}.{key}": job.get("environment") for name, key, job in JOBS}
    assert environments["drift.compare"] == "drift"
    assert environments["retrain.retrain"] == environments["release.release"] == "retraining"


def test_the_titles_of_the_bots_commits_are_those_that_start_no_retraining() -> None:
    condition, script = WORKFLOWS["retrain"]["jobs"]["retrain"]["if"], (ROOT / "deploy" / "pull-request").read_text()
    (prefix,) = re.findall(r"startsWith\(github.event.head_commit.message, '([^']+)'\)", condition)
    titles = re.findall(r'(?:--title|--message) "([^"]+)', script)
    assert len(titles) == 2
    assert all(title.startswith(prefix) for title in titles)
    assert re.findall(r"^branch=(.+)$", script, re.MULTILINE)[0] in condition


def test_what_a_retraining_changes_reaches_the_job_that_proposes_it() -> None:
    dvc = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    outs = [out for stage in dvc.values() for kind in ("outs", "metrics") for out in stage.get(kind, [])]
    tracked = [path for out in outs if isinstance(out, dict) for path, how in out.items() if how == {"cache": False}]
    (upload,) = (
        step for step in WORKFLOWS["retrain"]["jobs"]["retrain"]["steps"] if "upload-artifact" in step.get("uses", "")
    )
    assert tracked
    assert [
        path for path in tracked if not any(Path(path).match(each) for each in upload["with"]["path"].split())
    ] == []
