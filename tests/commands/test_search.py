"""`foundry search` in a project of two stages whose results follow from the learning rate, with the real DVC and the real store."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.commands import search
from pipeline.errors import FoundryError
from pipeline.tracking import store
from tests.command_line import foundry
from tests.dvc_project import ROOT, Project
from tests.processes import start

TRAINING = """
import os, signal, sys, time
from pathlib import Path
import yaml

signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
train = yaml.safe_load(Path("params.yaml").read_text())["train"]
rate = train["learning_rate"]
if rate > 10:
    sys.exit("diverged")
Path("data/model").mkdir(parents=True, exist_ok=True)
rows = ["images,train/held_out_mse,train/linear_denoiser_mse"]
for part in range(1, 9):
    rows.append(f"{train['num_images'] * part // 8},{abs(rate - 0.01) + 1 / part},1")
    Path("data/model/held_out.csv").write_text("\\n".join(rows))
    if part > 2:
        time.sleep(20 if rate > 1 and "SLOW" in os.environ else 0.1)
"""
EVALUATION = """
import json
from pathlib import Path

error = float(Path("data/model/held_out.csv").read_text().splitlines()[-1].split(",")[1])
Path("data/evaluation").mkdir(parents=True, exist_ok=True)
Path("data/evaluation/metrics.json").write_text(json.dumps({"evaluate/frechet_distance": 10 * error}))
"""
STAGES: dict[str, Any] = {
    "train": {
        "cmd": "python training.py pipeline.train",
        "params": ["train"],
        "deps": ["training.py"],
        "outs": ["data/model/held_out.csv"],
    },
    "evaluate": {
        "cmd": "python evaluation.py",
        "deps": ["data/model/held_out.csv", "evaluation.py"],
        "metrics": [{"data/evaluation/metrics.json": {"cache": False}}],
    },
}
COMMAND = ("search", "rates.yaml", "--trainings", "5")


@pytest.fixture
def project(tracking_store: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The working folder, with a model that is the worse the farther its learning rate is from 0.01; at first 0.02."""
    made = Project(Path.cwd(), f"sqlite:///{tracking_store}")
    shutil.copyfile(ROOT / "tests" / "params.yaml", "params.yaml")
    for name, text in {
        "training.py": TRAINING,
        "evaluation.py": EVALUATION,
        "dvc.yaml": yaml.safe_dump({"stages": STAGES}),
    }.items():
        made.write(name, text)
    made.write(".gitignore", "/.foundry/\n/mlflow.db*\n/mlartifacts/\n")
    made.dvc("repro", "-q")
    made.commit("A model")
    monkeypatch.setattr(search, "LOOK_SEC", 0.05)
    for name in ("PYTHONPATH", "DVC_NO_ANALYTICS", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, made.environment[name])
    return made


def _experiments(project: Project) -> list[str]:
    return sorted(project.run("git", "for-each-ref", "--format=%(refname:lstrip=4)", "refs/exps/*/*/*").split())


def test_a_search_finds_the_best_prunes_the_bad_and_says_what_to_apply(
    project: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLOW", "1")
    project.write("rates.yaml", "train.learning_rate: [0.02, 0.012, 0.05, 5.0]\n")
    foundry(*COMMAND)
    printed, told = capfd.readouterr()
    assert printed.splitlines()[:2] == [
        "rates: 3 trained, 1 pruned, 0 failed",
        "best: rates-1, evaluate/frechet_distance 1.27 (params.yaml as it is: 1.35)",
    ]
    assert printed.splitlines()[-1] == "apply it: dvc exp apply rates-1"
    assert "rates-3: pruned, as its held-out error is above the median of the others'; 3.38 of 5 trainings done" in told
    assert _experiments(project) == ["rates-0", "rates-1", "rates-2"]
    # The work tree is as it was, until the experiment is applied.
    assert project.run("git", "status", "--porcelain") == "?? rates.yaml\n"
    project.dvc("exp", "apply", "rates-1")
    assert yaml.safe_load(Path("params.yaml").read_text())["train"]["learning_rate"] == 0.012

    client = store.connect()
    [run] = client.search_runs([store.experiment_id(client)], "tags.`mlflow.source.name` = 'search'")
    assert (run.info.run_name, run.info.status) == ("rates", "FINISHED")
    points = client.get_metric_history(run.info.run_id, "evaluate/frechet_distance")
    assert {point.step: round(point.value, 9) for point in points} == {0: 1.35, 1: 1.27, 2: 1.65}
    table = run.data.tags["mlflow.note.content"].splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in table[2:]] == ["rates-1", "rates-0", "rates-2", "rates-3"]
    assert "pruned" in table[-1]
    plots = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert plots == {"history.png", "slices.png", "importances.png", "held_out_errors.png"}


@pytest.mark.long
def test_a_stopped_search_goes_on_with_the_trial_that_was_under_way(
    project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    project.write("rates.yaml", "train.learning_rate: [0.02, 5.0, 0.012]\n")
    command = [sys.executable, "-m", "pipeline", *COMMAND]
    slow = project.environment | {"SLOW": "1"}
    process = start(command, env=slow, cwd=project.folder, stderr=subprocess.PIPE)
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    assert any("rates-1: train.learning_rate=5.0" in line for line in lines)
    assert any("Running stage 'train'" in line for line in lines)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert _experiments(project) == ["rates-0"]
    assert not list(Path(".dvc/tmp/exps/standalone").glob("tmp*"))
    foundry(*COMMAND)
    printed, _ = capfd.readouterr()
    assert printed.startswith("rates: 3 trained, 0 pruned, 0 failed\nbest: rates-2")


@pytest.mark.long
def test_failures_are_no_results_and_several_end_the_search(
    project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    project.write("rates.yaml", "train.learning_rate: [11.0, 12.0, 13.0, 14.0]\n")
    with pytest.raises(FoundryError, match="3 trials have failed one after the other"):
        foundry(*COMMAND)
    assert "diverged" in capfd.readouterr().err
    assert _experiments(project) == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["none.yaml"], "none.yaml: not found"),
        (["rates.yaml", "--name", "my rates"], "my rates: a search, .* wants letters"),
    ],
)
def test_bad_input_is_refused(options: list[str], error: str, project: Project) -> None:
    project.write("rates.yaml", "train.learning_rate: [0.02, 0.012]\n")
    with pytest.raises(FoundryError, match=error):
        foundry("search", *options)


def test_experiments_of_another_search_are_not_taken_for_trials(project: Project) -> None:
    project.write("rates.yaml", "train.learning_rate: [0.02, 0.012]\n")
    project.dvc("exp", "run", "-q", "--temp", "-n", "rates-0")
    with pytest.raises(FoundryError, match="rates: another search had experiments of this name"):
        foundry(*COMMAND)


@pytest.mark.long
def test_a_store_that_is_away_does_not_end_the_search(
    project: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    project.write("rates.yaml", "train.learning_rate: [0.02, 0.012]\n")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    foundry(*COMMAND)
    printed, told = capfd.readouterr()
    assert "best: rates-1" in printed
    assert told.count("the search goes on, and the same command logs it later") == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.environment["MLFLOW_TRACKING_URI"])
    foundry(*COMMAND)
    client = store.connect()
    [run] = client.search_runs([store.experiment_id(client)], "tags.`mlflow.source.name` = 'search'")
    assert len(client.get_metric_history(run.info.run_id, "evaluate/frechet_distance")) == 2
