"""`foundry model settle`: trains both recipes with further seeds while luck leaves the gate's decision open.

Reads: data/registration/decision.json, the registry
Writes: what `train.seed`, `dvc repro` and `foundry model register` change, here and in a worktree of the champion

A round gives each side one training more, three at most (`pipeline.registry.gate.kid_difference`), the champion's first. Each is registered,
so that a run that was stopped goes on with the training that is missing.
"""

import subprocess
import sys
from collections.abc import Collection, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from pipeline.artefacts.files import read_document
from pipeline.artefacts.model import load_model
from pipeline.commands.runs import restore
from pipeline.errors import FoundryError
from pipeline.params import load_params
from pipeline.provenance.dvc import environment
from pipeline.provenance.git import main_worktree
from pipeline.registry.gate.kid_difference import MAX_TRAININGS
from pipeline.registry.registry import Registry
from pipeline.registry.versions import download
from pipeline.tracking import store

BY_LUCK = {"kid_is_lower", "kid_is_not_worse"}
"""The rules that another training may decide."""


def main(out: Path) -> None:
    name = load_params().register_.model_name
    while is_open(decision := read_document(out / "decision.json", stage="register")):
        settle_one_round(name, decision)
    if decision["decision"] == "undecided" and not decision["rules"]:
        raise FoundryError(f"{out}: the model was judged before; `foundry model register --again` judges it anew")
    sys.stdout.write(f"{name}: the decision is {decision['decision']}; another training would not change it\n")


def is_open(decision: Mapping[str, Any]) -> bool:
    """Whether luck alone has left this decision open, and another training may be judged."""
    failed = {rule["name"] for rule in decision["rules"] if not rule["passed"]}
    if decision["decision"] != "undecided" or not failed or not failed <= BY_LUCK:
        return False
    found = decision["comparison"]["kid_difference"]
    return bool(min(found["num_challengers"], found["num_champions"]) < MAX_TRAININGS)


def settle_one_round(name: str, decision: Mapping[str, Any]) -> None:
    """Give the side with fewer trainings, or both, one training more, and judge the challenger with all of them.

    Raises:
        FoundryError: a recipe is not known, the champion cannot be restored, or a command has failed.
    """
    with store.answering():
        registry = Registry(name)
        challenger = registry.version_of(decision["model_digest"])
    if challenger is None:
        raise FoundryError(
            f"{name}: the model of the last decision is not registered; `foundry model register` does it"
        )
    champion = decision["champion"]
    ours, theirs = (seeds_of(registry, version) for version in (challenger, champion))
    wanted = min(len(ours), len(theirs)) + 1
    if len(theirs) < wanted:
        theirs.add(seed := next_seed(theirs, ours))
        train(champion_worktree(name, champion), seed, f"the champion's recipe, training {wanted} of {MAX_TRAININGS}")
    if len(ours) < wanted:
        train(Path.cwd(), next_seed(ours, theirs), f"the challenger's recipe, training {wanted} of {MAX_TRAININGS}")
    else:
        run(["pipeline", "model", "register", "--again"], Path.cwd())


def seeds_of(registry: Registry, version: str) -> set[int]:
    """The seeds with which the recipe of a version was trained.

    Raises:
        FoundryError: the recipe is not known.
    """
    with store.answering():
        recipe = registry.recipe(version)
        versions = registry.trainings(recipe, besides="") if recipe else []
    models = [load_model(download(f"models:/{registry.name}/{each}")) for each in versions]
    seeds = {int(model.description.provenance["seed"]) for model in models if "seed" in model.description.provenance}
    if not seeds:
        raise FoundryError(f"{registry.name} version {version}: its recipe is not known, so it cannot be trained again")
    return seeds


def next_seed(own: Collection[int], other: Collection[int]) -> int:
    """A seed of the other side's trainings, since trainings with one seed share much of their luck; else a new one."""
    missing = sorted(set(other) - set(own))
    return missing[0] if missing else next(seed for seed in count() if seed not in own)


def champion_worktree(name: str, version: str) -> Path:
    """The code, params and data of the champion, restored once."""
    folder = main_worktree() / ".foundry" / "checkouts" / f"{name}-{version}"
    if not folder.exists():
        restore.main(f"models:/{name}/{version}", folder)
    return folder


def train(folder: Path, seed: int, what: str) -> None:
    """Train, evaluate and register in a worktree with another seed."""
    sys.stderr.write(f"settling: {what}, seed {seed}, in {folder}\n")
    for words in (
        ["pipeline", "set", f"train.seed={seed}"],
        ["dvc", "repro"],
        ["pipeline", "model", "register"],
    ):
        run(words, folder)


def run(words: list[str], folder: Path) -> None:
    """Run a command of this environment in a worktree, with its output on ours.

    Raises:
        FoundryError: it has failed, and said why.
    """
    command = [sys.executable, "-m", *words]
    if code := subprocess.run(command, cwd=folder, env=environment(), check=False).returncode:  # noqa: S603
        raise FoundryError(
            f"{folder}: `{' '.join(words).replace('pipeline', 'foundry')}` stopped with exit code {code} for the reason above; "
            "`foundry model settle` goes on from there"
        )
