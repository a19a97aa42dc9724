"""The scripts of deploy/ and the variables of make, with a stand-in for GitHub's command."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.environment import ROOT, environment
from tests.github import known, write_commands


@pytest.fixture
def github(tmp_path: Path) -> dict[str, str]:
    """The environment of a script that speaks to a stand-in of GitHub."""
    write_commands(tmp_path / "bin")
    return environment(PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}", GH_STATE=str(tmp_path / "gh.json"))


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
    for name in ("docs", "data/registration", "data/evaluation", "data/ancestor"):
        (repository / name).mkdir(parents=True)
    (repository / ".gitignore").write_text("/data/registration/\n")
    for name in (
        "dvc.lock",
        "params.yaml",
        "docs/contracts.md",
        "data/evaluation/metrics.json",
        "data/ancestor/.gitignore",
    ):
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
        # Two retrainings with another ancestor each.
        (repository / "data/ancestor/model.dvc").write_text(f"{round_}\n")
        (results / "promotions.jsonl").write_text(f'{{"version": "{round_}"}}\n')
        (results / "report.md").write_text(f"# The {round_} report\n")
        run("deploy/pull-request")
    assert [words[:2] for words in known(tmp_path)["calls"]].count(["pr", "create"]) == 1
    (comment,) = known(tmp_path)["comments"]
    assert comment == "<!-- diffusion-foundry: retraining -->\n# The second report\n"
    log = run("git", "--git-dir", str(tmp_path / "server"), "log", "--format=%s", "main..bot/retraining")
    assert log == "Retraining: accept\n"
    shown = run("git", "--git-dir", str(tmp_path / "server"), "show", "bot/retraining:docs/promotions.jsonl")
    assert shown == '{"version": "second"}\n'
    assert (
        run("git", "--git-dir", str(tmp_path / "server"), "show", "bot/retraining:data/ancestor/model.dvc")
        == "second\n"
    )
    assert run("git", "--git-dir", str(tmp_path / "server"), "log", "--format=%s", "main") == "Before\n"


def test_drift_is_one_issue_however_often_it_is_found(repository: Path, github: dict[str, str], tmp_path: Path) -> None:
    script(repository, "drift-issue")
    (repository / "data" / "drift").mkdir(parents=True)
    for found in ("once", "twice"):
        (repository / "data" / "drift" / "drift.json").write_text(json.dumps({"found": found}))
        subprocess.run(["deploy/drift-issue"], cwd=repository, env=github, check=True)
    (issue,) = known(tmp_path)["issues"]
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
    for target, variable in (
        ("adopt", "DATA"),
        ("rollback", "REASON"),
        ("retrain", "SET"),
        ("retrain", "START_FROM"),
        ("drift", "NEW"),
        ("image", "IMAGE"),
    ):
        given = environment(**{variable: evil}, PATH=f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}")
        done = subprocess.run(["make", target], cwd=tmp_path, env=given, capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        assert "No rule" not in done.stderr
        assert not (tmp_path / "made").exists(), target
