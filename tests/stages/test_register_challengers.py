"""Challengers, compared with the champion."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import FoundryError
from pipeline.register import decide, past_evaluations, register, tune
from pipeline.registry.gate import promotion
from pipeline.registry.gate.comparison import Champion, compare
from pipeline.registry.gate.evaluation_setup import EvaluationSetup
from pipeline.registry.registry import Registry
from pipeline.registry.versions import COMPLETE_TAG, download
from pipeline.tracking import runs
from pipeline.tracking.tags import EXTRACTOR_TAG, RECIPE_TAG
from tests.rivals import BAD, FAIR, GOOD, Digits, open_setup, write_rival, write_setup
from tests.stages.registrations import NAME, NOWHERE, decision, versions, write_evaluation


@pytest.fixture(scope="module")
def setup_folder(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_setup(tmp_path_factory.mktemp("setup"), digits)


def challenge(setup: EvaluationSetup, quality: tuple[float, float], **changes: Any) -> str:
    """Register a model of this quality; metrics.json holds the same wrong KID for all."""
    digest = changes.pop("data_digest", setup.facts()["data_digest"])
    again = changes.pop("again", False)
    model = write_rival(Path(f"rival-{quality}"), digest, quality=quality, **changes)
    return register(NAME, model, write_evaluation(Path("evaluation"), 0.1), Path("registration"), setup, again=again)


@pytest.mark.usefixtures("tracking_server")
def test_models_are_compared_on_the_same_seeds_and_the_better_one_is_champion(setup_folder: Path) -> None:
    setup = open_setup(setup_folder)
    challenge(setup, FAIR, data_digest="older")
    assert challenge(setup, GOOD).startswith("tiny version 2 is champion: ")
    assert Registry(NAME).aliases.current() == {"champion": "2", "previous": "1"}
    accepted = decision()
    assert (accepted["decision"], accepted["champion"]) == ("accept", "1")
    assert accepted["comparison"]["data_is_new"]
    assert accepted["comparison"]["kid_difference"]["high"] < 0 < accepted["comparison"]["kid_difference"]["margin"]
    assert accepted["rules"][0]["name"] == "second_judge"
    second = accepted["comparison"]["second_judge"]
    assert second["low"] < second["value"] < second["high"]
    tags = versions()["2"].tags
    assert tags["decision"] == "accept"
    assert {"promoted_why", COMPLETE_TAG} <= tags.keys()

    assert "kid_is_lower: found" in challenge(setup, BAD)
    assert Registry(NAME).aliases.current() == {"champion": "2", "previous": "1", "challenger": "3"}
    rejected = decision()
    assert (rejected["decision"], rejected["champion"]) == ("reject", "2")
    assert rejected["comparison"]["kid_difference"]["low"] > 0
    assert versions()["3"].tags["decision"] == "reject"
    assert "promoted_why" not in versions()["3"].tags
    history = Registry(NAME).aliases.history()
    assert [(entry["event"], entry["version"], entry["champion_before"]) for entry in history] == [
        ("accept", "1", "none"), ("accept", "2", "1"), ("reject", "3", "2"),
    ]  # fmt: skip
    with np.load("registration/challenger/samples.npz") as ours, np.load("registration/champion/samples.npz") as theirs:
        assert np.array_equal(ours["seeds"], theirs["seeds"])
        assert np.array_equal(ours["labels"], theirs["labels"])
        assert ours["images"].mean() > theirs["images"].mean()


@pytest.mark.usefixtures("tracking_server")
def test_trainings_of_one_recipe_are_judged_together_and_none_replaces_another(setup_folder: Path) -> None:
    setup = open_setup(setup_folder)
    challenge(setup, FAIR, origin={"recipe_digest": "a", "seed": "0"})
    assert "other_recipe: found only the seed of the training differs" in challenge(
        setup, GOOD, origin={"recipe_digest": "a", "seed": "1"}
    )
    for seed, quality in enumerate((BAD, (0.02, 0.8))):
        assert "kid_is_lower" in challenge(setup, quality, origin={"recipe_digest": "b", "seed": str(seed)})
    found = decision()["comparison"]["kid_difference"]
    assert (found["num_challengers"], found["num_champions"], found["seed_correlation"]) == (2, 2, None)
    kids = {
        name: json.loads(Path("registration", name, "figures.json").read_text())["kid"]
        for name in ("challenger", "challenger-2", "champion", "champion-2")
    }
    ours, theirs = ((kids[side] + kids[f"{side}-2"]) / 2 for side in ("challenger", "champion"))
    assert found["value"] == pytest.approx(ours - theirs)


@pytest.mark.usefixtures("tracking_server")
def test_the_history_of_runs_has_each_model_once_with_its_recipe_and_extractor() -> None:
    for model, recipe, extractor, kid in (
        ("a", "r", "e", 1.0), ("b", "r", "e", 1.5), ("b", "r", "e", 1.25), ("c", "r", "f", 9.0), ("d", None, "e", 7.0),
    ):  # fmt: skip
        with runs.stage_run("evaluate", params={}) as run:
            run.model(model)
            run.tags({EXTRACTOR_TAG: extractor, **({RECIPE_TAG: recipe} if recipe else {})})
            run.metrics({promotion.KID: kid, f"{promotion.KID}_standard_error": 0.1})
    found = sorted((each.recipe, each.kid, each.standard_error) for each in past_evaluations())
    assert found == [("r e", 1.0, 0.1), ("r e", 1.25, 0.1), ("r f", 9.0, 0.1)]


@pytest.mark.usefixtures("tracking_server")
def test_a_model_that_was_not_promoted_is_judged_again_when_asked_and_both_decisions_stay(setup_folder: Path) -> None:
    setup = open_setup(setup_folder)
    challenge(setup, FAIR)
    strict = setup.params.register_.model_copy(update={"max_size_ratio": 0.5})
    refusing = replace(setup, params=setup.params.model_copy(update={"register_": strict}))
    outcome = challenge(refusing, GOOD)
    assert outcome.startswith("tiny version 2 is undecided")
    assert re.search(r"model_size: .*; its KID is \S+ for the champion's \S+, so a person weighs them", outcome)
    assert "decided before: undecided; the champion is version 1" in challenge(setup, GOOD)
    assert (decision()["decision"], decision()["version"], decision()["rules"]) == ("undecided", "2", [])

    assert challenge(setup, GOOD, again=True).startswith("tiny version 2 is champion: ")
    assert (decision()["decision"], decision()["version"]) == ("accept", "2")
    assert sorted(versions()) == ["1", "2"]
    assert versions()["2"].tags["decision"] == "accept"
    card = Path("registration/MODEL_CARD.md").read_text()
    assert (
        card.partition("\n\n")[2].split()
        == versions()["2"].description.partition("\n\n")[2].partition("## Commands")[0].split()
    )
    assert Registry(NAME).aliases.current() == {"champion": "2", "previous": "1"}
    history = Registry(NAME).aliases.history()
    assert [(entry["event"], entry["version"], entry["champion_before"]) for entry in history] == [
        ("accept", "1", "none"), ("undecided", "2", "1"), ("accept", "2", "1"),
    ]  # fmt: skip
    assert challenge(setup, GOOD, again=True) == "tiny version 2 is this model already, and the champion"
    assert len(Registry(NAME).aliases.history()) == 3


@pytest.mark.usefixtures("tracking_server")
def test_a_decision_is_the_same_twice_but_for_what_was_measured(setup_folder: Path) -> None:
    setup, found = open_setup(setup_folder), []
    challenge(setup, GOOD)
    champion = Champion.load(download(f"models:/{NAME}@champion"), "1", Registry(NAME).metrics("1"))
    equal = write_rival(Path("equal"), setup.facts()["data_digest"], seed=1, num_steps=3)
    candidate = tune(equal, write_evaluation(Path("evaluation"), 0.1), Path("tuned"), NOWHERE.params)
    for name in ("one", "other"):
        decided = decide(candidate, champion, compare(candidate, champion, setup, Path(name)), setup)
        assert decided.comparison is not None
        assert decided.comparison["measured"]["champion"]["batch_ms"] > 0
        rules = [rule for rule in decided.rules if not rule.measured]
        found.append((rules, {**decided.comparison, "measured": None}))
    assert found[0] == found[1]


@pytest.mark.usefixtures("tracking_server")
def test_models_that_do_the_same_work_are_compared_without_a_clock(setup_folder: Path) -> None:
    setup = open_setup(setup_folder)
    challenge(setup, FAIR)
    challenge(setup, GOOD)
    comparison = decision()["comparison"]
    measured, work = comparison["measured"], [comparison[side]["rows_per_image"] for side in ("challenger", "champion")]
    assert work == [4, 4]
    assert (measured["latency_ratio"], measured["champion"]["batch_ms"]) == (None, None)
    [latency] = [rule for rule in decision()["rules"] if rule["name"] == "latency"]
    assert (latency["passed"], latency["measured"]) == (True, False)


@pytest.mark.usefixtures("tracking_server")
def test_a_model_of_other_pictures_or_fewer_classes_is_no_champion(setup_folder: Path) -> None:
    setup = open_setup(setup_folder)
    challenge(setup, FAIR)
    assert "same_pictures" in challenge(setup, GOOD, image_size=16)
    assert "classes_are_kept: found lost digit 9" in challenge(
        setup, GOOD, classes=tuple(f"digit {i}" for i in range(9))
    )
    assert Registry(NAME).aliases.current()["champion"] == "1"


@pytest.mark.usefixtures("tracking_server")
def test_a_model_of_other_data_than_the_prepared_is_refused_before_it_draws(setup_folder: Path) -> None:
    setup = open_setup(setup_folder)
    challenge(setup, FAIR)
    with pytest.raises(FoundryError, match="run `dvc repro` first"):
        challenge(setup, GOOD, data_digest="stale")


@pytest.mark.usefixtures("tracking_server")
def test_an_evaluation_process_that_fails_is_named_and_nothing_is_registered(setup_folder: Path) -> None:
    setup = open_setup(setup_folder)
    challenge(setup, FAIR)
    # More steps than the model has noise levels.
    with pytest.raises(FoundryError, match=r"model: its evaluation ended with exit code 2"):
        challenge(setup, GOOD, num_steps=99)
    assert list(versions()) == ["1"]
