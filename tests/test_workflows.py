"""The workflows are thin, may do little, and refuse what would lose a champion; the scripts behind them run here."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.commands.check_remotes import remote_findings, tracking_findings
from pipeline.commands.set_params import override
from pipeline.errors import FoundryError
from pipeline.params import ParamsError, load_params

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yml"))}
RELEASED = {
    "actions/cache/restore@v4.2.3",
    "actions/cache/save@v4.2.3",
    "actions/checkout@v4.2.2",
    "actions/download-artifact@v4.3.0",
    "actions/setup-python@v5.3.0",
    "actions/upload-artifact@v4.6.2",
}
"""Versions that were looked up; a new one is looked up and put here."""
JOBS = [(name, key, job) for name, workflow in WORKFLOWS.items() for key, job in workflow["jobs"].items()]
STEPS = [(f"{name}.{key}", step) for name, key, job in JOBS for step in job.get("steps", [])]


def triggers(name: str) -> Any:
    # YAML 1.1 reads `on` as true.
    return WORKFLOWS[name][True]


def test_there_are_four() -> None:
    assert set(WORKFLOWS) == {"ci", "retrain", "release", "drift"}
    assert "pull_request" in triggers("ci")


@pytest.mark.parametrize(("place", "step"), STEPS)
def test_a_step_uses_a_released_version_or_is_one_line_that_runs_on_a_laptop(place: str, step: dict[str, Any]) -> None:
    if "uses" in step:
        assert step["uses"] in RELEASED
        return
    run = step["run"]
    assert "${{" not in run, f"{place}: what others write must not become a command"
    assert "\n" not in run
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    words = run.split()
    for make in (words[i + 1] for i, word in enumerate(words) if word == "make"):
        assert make in targets
    if words[0] not in {"make", "gh"}:
        assert os.access(ROOT / words[0], os.X_OK), words[0]


@pytest.mark.parametrize(("name", "key", "job"), JOBS)
def test_a_job_may_write_only_what_it_must(name: str, key: str, job: dict[str, Any]) -> None:
    assert WORKFLOWS[name]["permissions"] == {}
    allowed = {
        "ci.test": set(),
        "ci.audit": set(),
        "retrain.retrain": {"id-token"},
        "retrain.propose": {"contents", "pull-requests"},
        "retrain.release": {"id-token", "packages"},
        "release.release": {"id-token", "packages"},
        "drift.compare": {"id-token"},
        "drift.tell": {"issues"},
        "drift.retrain": {"contents"},
    }
    assert {what for what, how in job["permissions"].items() if how == "write"} == allowed[f"{name}.{key}"]


@pytest.mark.parametrize(("name", "key", "job"), JOBS)
def test_secrets_and_identity_are_behind_the_environment_and_not_for_forks(
    name: str, key: str, job: dict[str, Any]
) -> None:
    if "id-token" in job["permissions"] and "uses" not in job:
        assert job["environment"] == "retraining", f"{name}.{key}"
        assert "!github.event.repository.fork" in job["if"]
    else:
        assert "secrets." not in json.dumps(job)
    for checkout in (step for step in job.get("steps", []) if step.get("uses", "").startswith("actions/checkout")):
        assert checkout["with"]["persist-credentials"] is False


@pytest.mark.parametrize("name", ["retrain", "release", "drift"])
def test_no_pull_request_starts_what_has_rights_and_one_runs_at_a_time(name: str) -> None:
    assert not {"pull_request", "pull_request_target", "workflow_run", "issue_comment"} & set(triggers(name))
    assert WORKFLOWS[name]["concurrency"] == {"group": name, "cancel-in-progress": False}


def test_retraining_starts_by_hand_by_the_clock_by_a_call_and_by_changes() -> None:
    on = triggers("retrain")
    assert set(on) == {"workflow_dispatch", "schedule", "repository_dispatch", "push"}
    assert on["push"] == {"branches": ["main"], "paths": ["data/**.dvc", "params.yaml", "dvc.yaml", "pipeline/**"]}
    job = WORKFLOWS["retrain"]["jobs"]["retrain"]
    assert "vars.RETRAIN_RUNNER" in job["runs-on"]


def test_retraining_refuses_first_and_keeps_what_a_killed_training_has_saved() -> None:
    steps = WORKFLOWS["retrain"]["jobs"]["retrain"]["steps"]
    runs = [step.get("run") or step["uses"].split("@")[0] for step in steps]
    assert runs.index("make remotes") < runs.index("actions/cache/restore") < runs.index("make retrain")
    (save,) = (step for step in steps if step.get("uses", "").startswith("actions/cache/save"))
    assert "always()" in save["if"]
    assert save["with"]["path"] == ".foundry/training"
    assert steps[0]["with"]["clean"] is False
    assert "--pull --allow-missing" in (ROOT / "Makefile").read_text()


def test_only_an_accepted_model_is_released() -> None:
    assert WORKFLOWS["retrain"]["jobs"]["release"]["if"] == "${{ needs.retrain.outputs.decision == 'accept' }}"


@pytest.mark.parametrize("uri", ["", "sqlite:///mlflow.db", "mlruns", "file:///somewhere"])
def test_a_champion_is_not_trusted_to_a_machine_that_goes_away(uri: str) -> None:
    assert "outlives" in tracking_findings({"MLFLOW_TRACKING_URI": uri} if uri else {})[0]
    assert remote_findings("") != []


def test_a_tracking_server_and_a_dvc_remote_are_enough() -> None:
    assert tracking_findings({"MLFLOW_TRACKING_URI": "https://mlflow.example"}) == []
    assert remote_findings("storage") == []


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """An empty checkout."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=folder, check=True, env=environment())
    return folder


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_", "GIT", "GH_"))}
    names = dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "nobody")
    mails = dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "nobody@example.org")
    return {**kept, **names, **mails, "DVC_NO_ANALYTICS": "1", "PYTHONPATH": str(ROOT), **changes}


def test_the_command_names_all_that_is_missing_and_takes_a_remote_from_the_environment(repository: Path) -> None:
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=repository, check=True, env=environment())
    command = [sys.executable, "-m", "pipeline", "remotes-check"]
    done = subprocess.run(command, cwd=repository, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["MLFLOW_TRACKING_URI", "DVC_REMOTE"]
    given = environment(MLFLOW_TRACKING_URI="https://mlflow.example", DVC_REMOTE="s3://bucket/store")
    subprocess.run(command, cwd=repository, env=given, check=True)
    assert "s3://bucket/store" in (repository / ".dvc" / "config.local").read_text()
    assert "bucket" not in (repository / ".dvc" / "config").read_text()


def test_an_override_changes_its_line_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    shutil.copyfile(ROOT / "params.yaml", path)
    before = path.read_text().splitlines()
    seed = load_params(path).train.seed + 1
    override(path, [f"train.seed={seed}", "register.max_kid_rise=0.25"])
    changed = [(old, new) for old, new in zip(before, path.read_text().splitlines(), strict=True) if old != new]
    assert len(changed) == 2
    assert load_params(path).train.seed == seed
    assert load_params(path).register_.max_kid_rise == 0.25


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("train.seed", "should be KEY=VALUE"),
        ("train.sede=1", "no such key"),
        ("teaching.seed=1", "no such key"),
        ("train.seed.more=1", "no such key"),
        ("train.seed=-1", "train.seed: should be"),
    ],
)
def test_an_override_that_is_not_allowed_changes_nothing(word: str, error: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    shutil.copyfile(ROOT / "params.yaml", path)
    with pytest.raises((FoundryError, ParamsError), match=error):
        override(path, [word])
    assert path.read_text() == (ROOT / "params.yaml").read_text()


GH = """#!/usr/bin/env python3
# Stands in for GitHub's own command: it remembers what it was told, and answers what it remembers.
import json, os, sys
from pathlib import Path
state = Path(os.environ["GH_STATE"])
known = json.loads(state.read_text()) if state.exists() else {"calls": [], "prs": 0, "comments": [], "issues": []}
words = sys.argv[1:]
known["calls"].append(words)
fields = [word.removeprefix("body=@") for word in words if word.startswith("body=@")]
text = Path(fields[0]).read_text() if fields else None
if "--body-file" in words:
    text = Path(words[words.index("--body-file") + 1]).read_text()
match words[:2]:
    case ["pr", "list"]:
        print(known["prs"] or "")
    case ["pr", "create"]:
        known["prs"] = 5
    case ["issue", "list"]:
        print(8 if known["issues"] else "")
    case ["issue", "create"]:
        known["issues"].append(text)
    case ["issue", "edit"]:
        known["issues"][0] = text
    case ["api", *_] if "POST" in words:
        known["comments"].append(text)
    case ["api", *_] if "PATCH" in words:
        assert any(word.endswith("comments/31") for word in words)
        known["comments"][0] = text
    case ["api", *_]:
        print(31 if known["comments"] else "")
state.write_text(json.dumps(known))
"""


@pytest.fixture
def github(tmp_path: Path) -> dict[str, str]:
    """The environment of a script that speaks to a stand-in of GitHub."""
    binary = tmp_path / "bin" / "gh"
    binary.parent.mkdir()
    binary.write_text(GH)
    binary.chmod(0o755)
    return environment(PATH=f"{binary.parent}:{os.environ['PATH']}", GH_STATE=str(tmp_path / "gh.json"))


def known(github: dict[str, str]) -> Any:
    return json.loads(Path(github["GH_STATE"]).read_text())


def script(folder: Path, name: str) -> None:
    (folder / "deploy").mkdir(exist_ok=True)
    shutil.copy(ROOT / "deploy" / name, folder / "deploy" / name)


def test_a_retraining_is_proposed_on_one_branch_in_one_pull_request_with_one_comment(
    repository: Path, github: dict[str, str], tmp_path: Path
) -> None:
    def run(*words: str) -> str:
        return subprocess.run(words, cwd=repository, env=github, check=True, capture_output=True, text=True).stdout

    script(repository, "pull-request")
    shutil.copy(ROOT / "Makefile", repository)
    for name in ("docs", "data/registration", "data/evaluation"):
        (repository / name).mkdir(parents=True)
    (repository / ".gitignore").write_text("/data/registration/\n")
    for name in ("dvc.lock", "params.yaml", "docs/contracts.md", "data/evaluation/metrics.json"):
        (repository / name).write_text("{}\n")
    run("git", "add", "-A")
    run("git", "commit", "-qm", "Before")
    run("git", "init", "-q", "--bare", str(tmp_path / "server"))
    run("git", "remote", "add", "origin", str(tmp_path / "server"))
    run("git", "push", "-q", "origin", "main")
    results = repository / "data" / "registration"
    (results / "decision.json").write_text('{"decision": "accept"}')

    for round_ in ("first", "second"):
        run("git", "switch", "-q", "main")
        (repository / "dvc.lock").write_text(f"{round_}\n")
        (results / "promotions.jsonl").write_text(f'{{"version": "{round_}"}}\n')
        (results / "report.md").write_text(f"# The {round_} report\n")
        run("deploy/pull-request")
    assert [words[:2] for words in known(github)["calls"]].count(["pr", "create"]) == 1
    (comment,) = known(github)["comments"]
    assert comment == "<!-- diffusion-foundry: retraining -->\n# The second report\n"
    log = run("git", "--git-dir", str(tmp_path / "server"), "log", "--format=%s", "main..bot/retraining")
    assert log == "Retraining: accept\n"
    shown = run("git", "--git-dir", str(tmp_path / "server"), "show", "bot/retraining:docs/promotions.jsonl")
    assert shown == '{"version": "second"}\n'
    assert run("git", "--git-dir", str(tmp_path / "server"), "log", "--format=%s", "main") == "Before\n"


def test_drift_is_one_issue_however_often_it_is_found(repository: Path, github: dict[str, str]) -> None:
    script(repository, "drift-issue")
    (repository / "data" / "drift").mkdir(parents=True)
    for found in ("once", "twice"):
        (repository / "data" / "drift" / "drift.json").write_text(json.dumps({"found": found}))
        subprocess.run(["deploy/drift-issue"], cwd=repository, env=github, check=True)
    (issue,) = known(github)["issues"]
    assert '{"found": "twice"}' in issue


@pytest.mark.parametrize(("wrote", "said"), [('{"drift": true}', "yes\n"), ('{"drift": false}', "no\n"), (None, None)])
def test_a_comparison_says_yes_or_no_or_fails(wrote: str | None, said: str | None, repository: Path) -> None:
    script(repository, "drifted")
    (repository / "data" / "drift").mkdir(parents=True)
    (repository / "data" / "drift" / "drift.json").write_text('{"drift": "an old one"}')
    write = f"@echo '{wrote}' > data/drift/drift.json; exit 3" if wrote else "@exit 1"
    (repository / "Makefile").write_text(f"drift:\n\t{write}\n")
    done = subprocess.run(["deploy/drifted"], cwd=repository, capture_output=True, text=True, check=False)
    assert (done.stdout or None, done.returncode == 0) == (said, said is not None)


def test_an_output_is_given_on_and_a_command_that_fails_gives_none(tmp_path: Path) -> None:
    given = environment(GITHUB_OUTPUT=str(tmp_path / "output"))
    subprocess.run([ROOT / "deploy" / "output", "word", "echo", "accept"], env=given, check=True)
    assert (tmp_path / "output").read_text() == "word=accept\n"
    assert subprocess.run([ROOT / "deploy" / "output", "word", "false"], env=given, check=False).returncode != 0
    assert (tmp_path / "output").read_text() == "word=accept\n"


def test_what_people_type_is_no_command(tmp_path: Path) -> None:
    """`make` would run $(shell …), and the shell what stands in backquotes."""
    evil = f"$(shell touch {tmp_path}/made) `touch {tmp_path}/made` $(touch {tmp_path}/made); touch {tmp_path}/made #"
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv").mkdir()
    for name in ("pyproject.toml", "constraints.txt", ".venv/installed"):
        (tmp_path / name).touch()
    script(tmp_path, "image")
    for target, variable in (("rollback", "REASON"), ("retrain", "SET"), ("drift", "NEW"), ("image", "IMAGE")):
        given = environment(**{variable: evil}, PATH=f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}")
        done = subprocess.run(["make", target], cwd=tmp_path, env=given, capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        assert "No rule" not in done.stderr
        assert not (tmp_path / "made").exists(), target
