"""The whole way in a project of its own: real commands, real DVC, a real store, scikit-learn's digits."""

import json
import os
import re
import shutil
import subprocess
import time
from copy import copy
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from pipeline.evaluation.results import read_results

ROOT = Path(__file__).parents[1]
CHANGES = {
    "prepare": {
        "source": "arrays",
        "class_names": None,
        "image_size": [8, 6],
        "channels": 4,
        "held_out_share": 0.3,
        # Strokes of one pixel, cut at the sides: 3 % of the digits have little in common with the pixels beside them.
        "max_noise_share": 0.05,
    },
    "schedule": {"num_timesteps": 8},
    "features": {"num_images": 20_000},
    "train": {
        "num_images": 12_800,
        "num_grids": 1,
        "num_snapshots": 2,
        "network": {"widths": [16], "num_blocks": 1, "patch_size": 1},
    },
    "evaluate": {
        "num_samples": 200,
        "num_steps": 8,
        "baseline_components": 10,
        "likelihood_num_images": 20,
        "compared_rows": [4],
    },
    "register": {"model_name": "digits"},
}


class Project:
    """A checkout that has another data set and small params, as a user would have it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for name in filter(None, names.split("\0")):
            if (ROOT / name).exists() and name not in {"data/raw.dvc", "dvc.lock"}:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        document = yaml.safe_load((ROOT / "tests" / "params.yaml").read_text())
        for section, changes in CHANGES.items():
            document[section] |= changes
        (folder / "params.yaml").write_text(yaml.safe_dump(document))
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_", "GIT_"))},
            "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
            "OMP_NUM_THREADS": "1",
            "DVC_NO_ANALYTICS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    def clone(self, folder: Path) -> "Project":
        """What another machine gets from git."""
        self.run("git", "clone", "-q", ".", str(folder))
        other = copy(self)
        other.folder, other.environment = folder, self.environment | {"PYTHONPATH": str(folder)}
        return other

    def run(self, *command: str) -> str:
        """Standard output of a command that must end well."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "-c", "user.name=a", "-c", "user.email=a@b.example", "commit", "-qm", message)

    def register(self) -> dict[str, object]:
        options = ("--model", "data/model", "--evaluation", "data/evaluation", "--out", "data/registration")
        self.run("python", "-m", "pipeline", "model", "register", *options)
        decision: dict[str, object] = json.loads((self.folder / "data/registration/decision.json").read_text())
        return decision

    def promote(self, version: str) -> None:
        """A person's decision: so small a training is not better than the baselines."""
        self.run("python", "-m", "pipeline", "model", "promote", version, "--reason", "a start")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, digits: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> Project:
    made = Project(tmp_path_factory.mktemp("project"))
    (made.folder / "data" / "raw").mkdir(parents=True)
    np.savez(made.folder / "data" / "raw" / "digits.npz", images=digits[0], labels=digits[1])
    made.run("git", "init", "-q", "-b", "main")
    made.run("dvc", "add", "-q", "data/raw")
    made.commit("A project")
    made.run("dvc", "repro")
    return made


def test_the_pipeline_leaves_what_dvc_yaml_says_and_nothing_else(project: Project) -> None:
    metrics = read_results(project.folder / "data/evaluation")
    assert {"evaluate/kid", "evaluate/kid_standard_error", "floor/kid", "baseline/kid"} <= metrics.keys()
    changed = {line[3:] for line in project.run("git", "status", "--porcelain").splitlines()}
    allowed = {"dvc.lock", "data/schedule/statistics.json", "data/evaluation/metrics.json"}
    assert changed <= allowed


def test_a_second_run_does_nothing_in_seconds(project: Project) -> None:
    start = time.monotonic()
    said = project.run("dvc", "repro")
    assert "Data and pipelines are up to date" in said
    assert said.count("didn't change, skipping") == 6
    assert time.monotonic() - start < 30


def test_what_was_made_once_is_not_made_again_after_git_has_restored_an_older_lock(project: Project) -> None:
    lock = project.folder / "dvc.lock"
    made = lock.read_text()
    lock.unlink()
    said = project.run("dvc", "repro")
    assert said.count("is cached - skipping run") == 5
    assert "Running stage" not in said
    assert lock.read_text() == made


def test_dvc_shows_the_metrics_of_the_model_and_few_others(project: Project) -> None:
    shown = json.loads(project.run("dvc", "metrics", "show", "--json"))[""]["data"]
    names = {path: set(file["data"]) for path, file in shown.items()}
    assert names.keys() == {"data/schedule/statistics.json", "data/evaluation/metrics.json"}
    assert {name.split("/")[0] for name in names["data/evaluation/metrics.json"]} == {"evaluate"}
    assert sum(map(len, names.values())) < 40


def test_another_number_of_samples_trains_no_other_classifier(project: Project) -> None:
    project.run("python", "-m", "pipeline", "set", "evaluate.num_samples=199")
    stale = project.run("dvc", "status", "--json")
    project.run("python", "-m", "pipeline", "set", f"evaluate.num_samples={CHANGES['evaluate']['num_samples']}")
    assert json.loads(stale).keys() == {"evaluate"}


def test_dvc_shows_the_params_and_plots(project: Project) -> None:
    assert project.run("dvc", "params", "diff", "--json").strip().startswith("{")
    project.run("python", "-m", "pipeline", "plots-template", "--out", ".dvc/plots/offline.html")
    assert "index.html" in project.run("dvc", "plots", "show", "--out", "shown")
    page = (project.folder / "shown" / "index.html").read_text()
    assert "cdn." not in page
    assert "train/loss" in page
    # Each plot has an x of its own: over the row number a curve says nothing.
    assert '"title": "step"' not in page


def test_a_model_that_is_worse_than_a_mixture_of_gaussians_becomes_champion_by_a_persons_decision(
    project: Project,
) -> None:
    first = project.register()
    assert (first["decision"], first["champion"]) == ("undecided", None)
    before = project.run("python", "-m", "pipeline", "summary")
    assert "serve the champion" not in before
    assert "make serve MODEL=data/registration/model" in before
    assert "foundry model promote 1 --reason" in before
    project.promote("1")
    again = project.register()
    assert (again["decision"], again["champion"], again["version"]) == ("undecided", "1", "1")
    said = project.run("python", "-m", "pipeline", "summary")
    assert "registered: digits version 1 (champion)" in said
    assert "serve the champion, version 1" in said
    assert "worse than a mixture of Gaussians" in said
    assert "Frechet distance" in said
    assert re.search(r"took, when each last ran: prepare \d+ s, .*, register \d+ s; together \d+", said), said


def test_the_champion_draws_what_the_model_folder_draws(project: Project) -> None:
    if project.register()["champion"] is None:
        project.promote("1")
    drawn = []
    for model in ("data/registration/model", "models:/digits@champion"):
        options = ("--num-images", "5", "--seed", "3", "--out", "drawn.npz")
        project.run("python", "-m", "pipeline", "sample", "--model", model, *options)
        drawn.append(dict(np.load(project.folder / "drawn.npz", allow_pickle=False)))
    assert drawn[0]["images"].shape == (5, 8, 6, 4)
    assert all(np.array_equal(drawn[0][name], drawn[1][name]) for name in ("images", "labels", "seeds"))


def test_mlflow_has_one_parent_with_a_child_for_each_stage(project: Project) -> None:
    code = (
        "import json; from pipeline.tracking import store; client = store.connect();"
        "ids = [e.experiment_id for e in client.search_experiments() if e.name == 'diffusion-foundry'];"
        "runs = client.search_runs(ids);"
        "print(json.dumps([[r.info.run_name, r.info.status, r.data.tags.get('mlflow.parentRunId'),"
        " r.info.run_id, r.data.metrics.get('evaluate/kid')] for r in runs]))"
    )
    runs = json.loads(project.run("python", "-c", code).splitlines()[-1])
    stages = [run for run in runs if run[0] in {"prepare", "schedule", "features", "train", "evaluate"}]
    parents = {run[2] for run in stages}
    assert len(stages) == 5
    assert len(parents) == 1
    assert all(run[1] == "FINISHED" for run in stages)
    assert next(run for run in runs if run[3] in parents)[4] is not None


@pytest.mark.long
@pytest.mark.parametrize("way", ["workspace", "--temp", "--queue"])
def test_an_experiment_changes_only_what_it_should_and_is_in_mlflow(project: Project, way: str) -> None:
    project.commit("Results") if project.run("git", "status", "--porcelain") else None
    rate = {"workspace": "0.0015", "--temp": "0.0016", "--queue": "0.0017"}[way]
    options = [] if way == "workspace" else [way]
    said = project.run("dvc", "exp", "run", *options, "-n", f"rate-{rate[2:]}", "-S", f"train.learning_rate={rate}")
    if way == "--queue":
        said += project.run("python", "-m", "pipeline", "runs", "queue")
        while {"Queued", "Running"} & set(project.run("dvc", "queue", "status").split()):
            time.sleep(1)
    shown = project.run("dvc", "exp", "show", "--csv")
    assert f"rate-{rate[2:]}" in shown
    code = (
        "from pipeline.tracking import store; client = store.connect();"
        "ids = [e.experiment_id for e in client.search_experiments()];"
        f"print(len(client.search_runs(ids, \"tags.`dvc.exp.name` = 'rate-{rate[2:]}'\")))"
    )
    assert int(project.run("python", "-c", code).splitlines()[-1]) == 3, said


@pytest.mark.long
def test_a_search_runs_the_pipeline_for_each_trial_and_links_their_runs(project: Project) -> None:
    project.commit("Results") if project.run("git", "status", "--porcelain") else None
    (project.folder / "rates.yaml").write_text("train.learning_rate: {low: 0.001, high: 0.03, log: true}\n")
    said = project.run("foundry", "search", "rates.yaml", "--trainings", "2")
    found = re.search(r"best: rates-[01], evaluate/frechet_distance ([\d.]+) \(params.yaml as it is: ([\d.]+)\)", said)
    assert found, said
    assert float(found[1]) <= float(found[2])
    measured = []
    for name in ("rates-0", "rates-1"):
        [commit] = project.run("git", "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{name}").split()
        metrics = json.loads(project.run("git", "show", f"{commit}:data/evaluation/metrics.json"))
        measured.append(metrics["evaluate/frechet_distance"])
    assert min(measured) == pytest.approx(float(found[1]), rel=1e-3)
    code = (
        "from pipeline.tracking import store; client = store.connect(); ids = [store.experiment_id(client)];"
        "print(*sorted(run.info.run_name for run in client.search_runs(ids, \"tags.`foundry.search` = 'rates'\")))"
    )
    assert project.run("python", "-c", code).splitlines()[-1] == "rates-0 rates-1"
