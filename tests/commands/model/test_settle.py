"""`foundry model settle`: both recipes are trained again until luck leaves nothing open."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from pipeline.artefacts.model import load_model
from pipeline.commands.model.settle import is_open, next_seed
from pipeline.evaluation.results import write_results
from pipeline.registry.gate.kid_difference import MAX_TRAININGS
from pipeline.registry.registry import Registry
from pipeline.registry.versions import download
from tests.command_line import foundry
from tests.dvc_project import Project
from tests.rivals import NUM_SAMPLES, write_setup
from tests.small_sets import BETTER_THAN_BASELINES

STAGE = """
import shutil
from pathlib import Path
from pipeline.artefacts.files import read_document
from pipeline.artefacts.model import model_digest
from pipeline.params import load_params
from pipeline.tracking import runs
from tests.rivals import write_rival

train, out = load_params().train, Path("data/model")
with runs.stage_run("train", params={}) as run:
    write_rival(
        out,
        read_document(Path("data/prepared/dataset.json"))["digest"],
        quality=(train.learning_rate, -0.6),
        seed=train.seed,
        origin={"recipe_digest": f"{train.learning_rate}", "seed": f"{train.seed}"},
    )
    run.tags({"model.digest": model_digest(out)})
"""
YAML = """
stages:
  train:
    cmd: {python} stage.py
    deps: [stage.py, data/prepared]
    params: [train]
    outs: [data/model/model.safetensors, data/model/model.json]
"""


def undecided(*failed: str, counts: tuple[int, int] = (1, 1)) -> dict[str, Any]:
    names = {"kid_is_lower", "class_balance", *failed}
    return {
        "decision": "undecided",
        "rules": [{"name": name, "passed": name not in failed} for name in names],
        "comparison": {"kid_difference": {"num_challengers": counts[0], "num_champions": counts[1]}},
    }


def test_only_a_decision_that_luck_has_left_open_asks_for_a_training() -> None:
    assert is_open(undecided("kid_is_lower"))
    assert is_open(undecided("kid_is_not_worse", counts=(3, 2)))
    assert not is_open(undecided("kid_is_lower", counts=(3, 3)))
    assert not is_open(undecided("kid_is_lower", "class_balance"))
    assert not is_open(undecided("kid_is_lower") | {"decision": "reject"})
    assert not is_open(undecided("kid_is_lower") | {"rules": [], "comparison": None})


@pytest.mark.parametrize("ours", [{0}, {3}, {0, 1}, {2, 7}])
@pytest.mark.parametrize("theirs", [{0}, {1}, {5, 6}, {1, 2, 3}])
def test_seeds_are_shared_where_they_can_be_and_no_side_is_trained_more_than_three_times(
    ours: set[int], theirs: set[int]
) -> None:
    sides, before = [set(theirs), set(ours)], max(len(ours), len(theirs))
    while min(map(len, sides)) < MAX_TRAININGS:
        wanted = min(map(len, sides)) + 1
        for own, other in (sides, sides[::-1]):
            if len(own) < wanted:
                own.add(next_seed(own, other))
    assert max(map(len, sides)) == MAX_TRAININGS >= before
    shared = sides[0] & sides[1]
    assert len(shared) >= MAX_TRAININGS - len(ours - theirs)


@pytest.fixture
def project(
    workspace: Path,
    tracking_store: Path,
    monkeypatch: pytest.MonkeyPatch,
    root: Path,
    digits: tuple[NDArray[np.uint8], NDArray[np.int64]],
) -> Project:
    """A champion, and a challenger of another recipe that is hardly better."""
    assert tracking_store.exists()
    uri = f"sqlite:///{workspace}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("PYTHONPATH", str(root))
    made = Project(workspace, uri)
    made.environment["OMP_NUM_THREADS"] = "1"
    shutil.copytree(write_setup(workspace / "setup", digits), workspace / "data")
    shutil.rmtree(workspace / "setup")
    document = yaml.safe_load((root / "tests" / "params.yaml").read_text())
    document["evaluate"] |= {"num_samples": NUM_SAMPLES, "num_steps": 4}
    document["register"] |= {"model_name": "digits", "max_latency_ratio": 5.0, "max_memory_ratio": 2.0}
    document["train"]["learning_rate"] = 0.4
    made.write("params.yaml", yaml.safe_dump(document))
    made.write("stage.py", STAGE)
    made.write("dvc.yaml", YAML.format(python=sys.executable))
    made.write(".gitignore", "/.foundry/\n/data/registration/\n/mlflow.db*\n/mlartifacts/\n__pycache__\n")
    (workspace / "data/evaluation").mkdir(parents=True)
    write_results(workspace / "data/evaluation", BETTER_THAN_BASELINES | {"evaluate/kid": 75.0})
    for name in ("prepared", "features"):
        made.dvc("add", "-q", f"data/{name}")
    for setting in ("train.seed=0", "train.learning_rate=0.41"):
        made.foundry("set", setting)
        made.commit(setting)
        made.dvc("repro", "-q")
        made.commit("Its results")
        made.foundry("model", "register")
    return made


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_both_recipes_are_trained_three_times_with_the_same_seeds_and_the_decision_is_final(project: Project) -> None:
    def decision() -> Any:
        return json.loads(Path("data/registration/decision.json").read_text())

    assert is_open(decision()), decision()["rules"]
    foundry("model", "settle")
    found = decision()
    assert not is_open(found)
    counts = found["comparison"]["kid_difference"]
    assert (counts["num_challengers"], counts["num_champions"]) == (3, 3)
    assert 0 <= counts["seed_correlation"] <= 1
    registry = Registry("digits")
    recipes = {registry.recipe(version) for version in ("1", "2")}
    seeds = {
        recipe: [load_model(download(f"models:/digits/{each}")).description.provenance["seed"] for each in versions]
        for recipe in recipes
        if recipe and (versions := registry.trainings(recipe, besides=""))
    }
    assert [sorted(each) for each in seeds.values()] == [["0", "1", "2"]] * 2
    assert "digits-1" in project.run("git", "worktree", "list")
