"""The whole way in a project of its own: real commands, real DVC, a real store, scikit-learn's digits."""

import json
import re
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.evaluation.results import read_results
from pipeline.tracking import store
from pipeline.tracking.tags import PARENT_TAG
from tests.command_line import foundry
from tests.conftest import OUTSIDE
from tests.project import CHANGES, CHECKOUT, Project, run_pipeline


@pytest.fixture(scope="module")
def project(
    made_once: Callable[[str, Callable[[Path], None]], Path],
    digits: tuple[NDArray[np.uint8], NDArray[np.int64]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Project:
    """A project in which the pipeline has run."""
    ran = made_once("pipeline", lambda folder: run_pipeline(folder, digits))
    folder = tmp_path_factory.mktemp("project") / CHECKOUT
    return Project(Path(shutil.copytree(ran / CHECKOUT, folder, symlinks=True)))


@pytest.fixture
def inside(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project as the working folder: commands in this process cost their own time and no start."""
    for name in OUTSIDE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(project.folder)
    return project


def register() -> dict[str, object]:
    options = ("--model", "data/model", "--evaluation", "data/evaluation", "--out", "data/registration")
    foundry("model", "register", *options)
    decision: dict[str, object] = json.loads(Path("data/registration/decision.json").read_text())
    return decision


def promote() -> None:
    """A person's decision: so small a training is not better than the baselines."""
    foundry("model", "promote", "1", "--reason", "a start")


def test_the_pipeline_leaves_what_dvc_yaml_says_and_nothing_else(project: Project) -> None:
    metrics = read_results(project.folder / "data/evaluation")
    assert {"evaluate/kid", "evaluate/kid_standard_error", "floor/kid", "baseline/kid"} <= metrics.keys()
    changed = {line[3:] for line in project.run("git", "status", "--porcelain").splitlines()}
    allowed = {"dvc.lock", "data/schedule/statistics.json", "data/evaluation/metrics.json"}
    assert changed <= allowed


def children_sec() -> float:
    """Processor time of all processes that this one has waited for: unlike a clock's, the same on a busy machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_second_run_does_nothing_in_seconds(project: Project) -> None:
    before = children_sec()
    said = project.run("dvc", "repro")
    assert "Data and pipelines are up to date" in said
    assert said.count("didn't change, skipping") == 6
    assert children_sec() - before < 30


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


def test_another_number_of_samples_trains_no_other_classifier(inside: Project) -> None:
    foundry("set", "evaluate.num_samples=199")
    stale = inside.run("dvc", "status", "--json")
    foundry("set", f"evaluate.num_samples={CHANGES['evaluate']['num_samples']}")
    assert json.loads(stale).keys() == {"evaluate"}


def test_dvc_shows_the_params_and_plots(inside: Project) -> None:
    assert inside.run("dvc", "params", "diff", "--json").strip().startswith("{")
    foundry("plots-template", "--out", ".dvc/plots/offline.html")
    assert "index.html" in inside.run("dvc", "plots", "show", "--out", "shown")
    page = Path("shown/index.html").read_text()
    assert "cdn." not in page
    assert "train/loss" in page
    # Each plot has an x of its own: over the row number a curve says nothing.
    assert '"title": "step"' not in page


@pytest.mark.usefixtures("inside")
def test_a_model_that_is_worse_than_a_mixture_of_gaussians_becomes_champion_by_a_persons_decision(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = register()
    assert (first["decision"], first["champion"]) == ("undecided", None)
    capsys.readouterr()
    foundry("summary")
    before = capsys.readouterr().out
    assert "serve the champion" not in before
    assert "make serve MODEL=data/registration/model" in before
    assert "foundry model promote 1 --reason" in before
    promote()
    again = register()
    assert (again["decision"], again["champion"], again["version"]) == ("undecided", "1", "1")
    foundry("summary")
    said = capsys.readouterr().out
    assert "registered: digits version 1 (champion)" in said
    assert "serve the champion, version 1" in said
    assert "worse than a mixture of Gaussians" in said
    assert "Frechet distance" in said
    assert re.search(r"took, when each last ran: prepare [\d min]+ s, .*, register [\d min]+ s; together \d+", said), (
        said
    )


@pytest.mark.usefixtures("inside")
def test_the_champion_draws_what_the_model_folder_draws() -> None:
    if register()["champion"] is None:
        promote()
    drawn = []
    for model in ("data/registration/model", "models:/digits@champion"):
        foundry("sample", "--model", model, "--num-images", "5", "--seed", "3", "--out", "drawn.npz")
        drawn.append(dict(np.load("drawn.npz", allow_pickle=False)))
    assert drawn[0]["images"].shape == (5, 8, 6, 4)
    assert all(np.array_equal(drawn[0][name], drawn[1][name]) for name in ("images", "labels", "seeds"))


@pytest.mark.usefixtures("inside")
def test_mlflow_has_one_parent_with_a_child_for_each_stage() -> None:
    client = store.connect()
    runs = client.search_runs([store.experiment_id(client)])
    stages = [run for run in runs if run.info.run_name in {"prepare", "schedule", "features", "train", "evaluate"}]
    assert len(stages) == 5
    assert all(run.info.status == "FINISHED" for run in stages)
    (parent,) = {run.data.tags[PARENT_TAG] for run in stages}
    assert "evaluate/kid" in client.get_run(parent).data.metrics


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
