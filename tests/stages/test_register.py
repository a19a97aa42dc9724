import io
import json
import re
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests
from PIL import Image

from pipeline.artefacts.model import DataSpec, Description, build_network, load_model, model_digest, save_model
from pipeline.artefacts.sampling_defaults import DEFAULT_SAMPLING
from pipeline.commands.model.champion import promote, rollback
from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.errors import FoundryError
from pipeline.evaluation.results import read_results, write_results
from pipeline.evaluation.tuning.apply import apply_tuning
from pipeline.inference.draw import draw
from pipeline.params import load_params
from pipeline.register import decide, past_evaluations, publish, refuse_experiments, register, tune
from pipeline.registry import promotion
from pipeline.registry.aliases import ChampionChangedError
from pipeline.registry.comparison import Champion, compare
from pipeline.registry.evaluation_setup import EvaluationSetup
from pipeline.registry.promotion import Decision
from pipeline.registry.registry import Registry
from pipeline.registry.versions import COMPLETE_TAG, download, resolve
from pipeline.tracking import runs, store
from pipeline.tracking.tags import EXTRACTOR_TAG, RECIPE_TAG
from tests.rivals import BAD, FAIR, GOOD, Digits, open_setup, write_rival, write_setup
from tests.small_sets import BETTER_THAN_BASELINES, SMALL_NETWORK

NAME = "tiny"
NOWHERE = EvaluationSetup(
    prepared=Path("none"), features=Path("none"), params=load_params(Path(__file__).parents[1] / "params.yaml")
)
"""For a first champion, which is compared with none."""


def write_model(folder: Path, seed: int = 0, class_names: tuple[str, ...] | None = ("cat", "dog")) -> Path:
    description = Description(
        data=DataSpec(image_size=8, channels=1, class_names=class_names, sigma_data=0.5),
        network=SMALL_NETWORK,
        target="v",
        sampling=DEFAULT_SAMPLING,
        timetables={"ddim": {"2": (9, 4)}},
        provenance={"data_digest": "d1g3st"},
    )
    weights = build_network(description, seed=seed).state_dict()
    save_model(folder, description, weights=weights, schedule=NoiseSchedule(cosine_betas(25)))
    return folder


def write_evaluation(folder: Path, kid: float, tuning: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    write_results(folder, {**BETTER_THAN_BASELINES, promotion.KID: kid, "evaluate/recall": 0.5})
    if tuning is not None:
        (folder / "tuning.json").write_text(json.dumps(tuning))
    return folder


def registered(seed: int, kid: float, out: str = "registration") -> str:
    """Write a model and an evaluation with this KID, and register it."""
    folder = Path(f"model-{seed}")
    return register(NAME, write_model(folder, seed), write_evaluation(Path("evaluation"), kid), Path(out), NOWHERE)


def decision(out: str = "registration") -> Any:
    return json.loads(Path(out, "decision.json").read_text())


def versions() -> dict[str, Any]:
    found = store.connect().search_model_versions(f"name = '{NAME}'")
    return {str(version.version): version for version in found}


@pytest.mark.usefixtures("tracking_server")
def test_the_first_model_is_champion_with_its_evidence() -> None:
    write_evaluation(Path("evaluation"), kid=0.1)
    Image.new("L", (300, 150)).save("evaluation/grid.png")
    outcome = registered(seed=1, kid=0.1)
    assert outcome.startswith("tiny version 1 is champion")
    assert Registry(NAME).aliases.current() == {"champion": "1"}
    card = Path("registration/MODEL_CARD.md").read_text()
    assert card.startswith("# Model card: tiny")
    description = versions()["1"].description
    title, _, text = description.partition("\n\n")
    picture, _, text = text.partition("\n\n")
    assert f"{title}\n\n{text}".split()[: len(card.split())] == card.split()
    assert "foundry runs restore models:/tiny/1 " in description
    thumbnail = requests.get(f"{store.tracking_uri()}/{picture.removeprefix('![](').removesuffix(')')}", timeout=60)
    assert Image.open(io.BytesIO(thumbnail.content)).size == (256, 128)
    rules = decision()["rules"]
    assert [(rule["name"], rule["passed"], rule["leaves_open"]) for rule in rules] == [
        ("kid_is_known", True, False), ("better_than_mixture", True, True), ("better_than_linear", True, True),
    ]  # fmt: skip
    assert decision() == {
        "decision": "accept",
        "rules": rules,
        "comparison": None,
        "champion": None,
        "version": None,
        "model_digest": model_digest(Path("registration/model")),
    }
    tags = versions()["1"].tags
    assert tags["model.digest"] == decision()["model_digest"]
    assert tags["data.digest"] == "d1g3st"
    assert tags["decision"] == "accept"
    assert "better_than_mixture" in tags["promoted_why"]
    [entry] = Registry(NAME).aliases.history()
    assert (entry["event"], entry["version"], entry["champion_before"]) == ("accept", "1", "none")
    assert entry["why"] == tags["promoted_why"]
    assert Registry(NAME).metrics("1") == {
        name: value for name, value in read_results(Path("evaluation")).items() if name.startswith("evaluate/")
    }


@pytest.mark.usefixtures("tracking_server")
def test_a_first_model_that_is_not_known_to_beat_the_baselines_waits_for_a_person() -> None:
    assert registered(seed=1, kid=99.999).startswith("tiny version 1 is undecided and not champion")
    assert decision()["decision"] == versions()["1"].tags["decision"] == "undecided"
    assert "champion" not in Registry(NAME).aliases.current()
    assert (
        "not distinguishable from a mixture of Gaussians"
        in Path("registration/MODEL_CARD.md").read_text().split("##")[0]
    )
    promote(NAME, "1", "good enough to try")
    assert Registry(NAME).aliases.champion() == "1"
    assert [entry["event"] for entry in Registry(NAME).aliases.history()] == ["undecided", "promote"]
    # What `foundry serve` and a Bento say of it.
    origin = resolve(f"models:/{NAME}@champion").origin
    assert origin["decision"] == "undecided"
    assert re.fullmatch(r"by .+: good enough to try", origin["promoted_why"])


@pytest.mark.usefixtures("tracking_server")
def test_the_champion_draws_the_pictures_of_its_folder_with_pickle_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    registered(seed=1, kid=0.1)
    import mlflow

    champion = mlflow.pyfunc.load_model("models:/tiny@champion")
    model = load_model(Path("registration/model"))

    drawn = champion.predict(pd.DataFrame({"seed": [5, 6, 7], "label": [1, None, 0]}))
    assert drawn.dtype == np.uint8
    assert drawn.shape == (3, 8, 8, 1)
    assert np.array_equal(drawn, draw(model, [5, 6, 7], [1, 2, 0], sampler="dpmpp_2m", num_steps=20))

    whole = champion.predict(pd.DataFrame({"seed": [5], "label": [1]}), params={"steps": 2, "sampler": "ddim"})
    assert np.array_equal(whole, draw(model, [5], [1], sampler="ddim", num_steps=2))
    guided = champion.predict(pd.DataFrame({"seed": [5], "label": [1]}), params={"steps": 2, "guidance_scale": 2.0})
    assert np.array_equal(guided, draw(model, [5], [1], sampler="dpmpp_2m", num_steps=2, guidance_scale=2.0))
    assert champion.predict(pd.DataFrame({"seed": [5]})).shape == (1, 8, 8, 1)


@pytest.mark.usefixtures("tracking_server")
def test_a_registered_model_without_classes_draws_without_labels() -> None:
    model = write_model(Path("model"), class_names=None)
    register(NAME, model, write_evaluation(Path("evaluation"), 0.1), Path("registration"), NOWHERE)
    import mlflow

    champion = mlflow.pyfunc.load_model("models:/tiny/1")
    assert champion.predict(pd.DataFrame({"seed": [5, 6]})).shape == (2, 8, 8, 1)
    assert champion.predict(pd.DataFrame({"seed": [5], "label": [None]})).shape == (1, 8, 8, 1)


@pytest.mark.usefixtures("tracking_server")
def test_nothing_registered_is_pickled_and_its_requirements_are_exact() -> None:
    registered(seed=1, kid=0.1)
    folder = download("models:/tiny@champion").parents[1]
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {"pyfunc_model.py", "model.safetensors", "model.json", "MLmodel"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth", ".bin"))]
    requirements = (folder / "requirements.txt").read_text().split()
    assert "torch==2.13.0" in requirements
    assert all(re.fullmatch(r"[a-z-]+==[0-9.a-z]+", line) for line in requirements)


@pytest.mark.usefixtures("tracking_server")
def test_the_same_model_twice_makes_no_second_version() -> None:
    registered(seed=1, kid=0.1)
    assert "this model already" in registered(seed=1, kid=0.1)
    assert list(versions()) == ["1"]
    assert decision() | {"model_digest": ""} == {
        "decision": "accept", "rules": [], "comparison": None, "champion": "1", "version": "1", "model_digest": "",
    }  # fmt: skip


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
def test_an_undecided_model_is_registered_with_its_evidence_and_is_not_champion() -> None:
    evaluation = write_evaluation(Path("evaluation"), 0.1)
    candidate = tune(write_model(Path("model"), 1), evaluation, Path("candidate"), NOWHERE.params)
    undecided = Decision(decision="undecided", model_digest=candidate.model.digest)
    Path("registration").mkdir()
    assert publish(Registry(NAME), candidate, undecided, "a card", Path("registration")).startswith(
        "tiny version 1 is undecided and not champion (`foundry model promote` overrides)"
    )
    assert Registry(NAME).aliases.current() == {"challenger": "1"}
    assert versions()["1"].tags["decision"] == "undecided"
    assert registered(seed=1, kid=0.1).endswith(
        "decided before: undecided; the champion is version none (`foundry model register --again` judges it again)"
    )


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


@pytest.mark.usefixtures("tracking_server")
def test_a_versions_run_has_what_mlflow_compares_and_leads_to_the_run_that_trained_it() -> None:
    shutil.copyfile(Path(__file__).parents[1] / "params.yaml", "params.yaml")
    Path("data/prepared").mkdir(parents=True)
    Path("data/prepared/dataset.json").write_text('{"digest": "d1g3st"}')
    folder = write_model(Path("model"))
    with runs.stage_run("train", params={}) as run:
        run.tags({"model.digest": model_digest(folder)})
    with runs.stage_run("evaluate", params={}) as run:
        run.model(model_digest(folder))
    register(NAME, folder, write_evaluation(Path("evaluation"), 0.1), Path("registration"), NOWHERE)
    client = store.connect()
    registration = client.get_run(versions()["1"].run_id)
    training = client.get_run(registration.data.tags["training.run"])
    assert (training.info.run_name, registration.info.run_name) == ("train", "tiny version 1: accept")
    assert resolve(f"models:/{NAME}/1").training_run == training.info.run_id
    assert "kid_is_known" in registration.data.tags["mlflow.note.content"]
    assert registration.data.params["train.target"] == "v"
    assert [entry.dataset.digest for entry in registration.inputs.dataset_inputs] == ["d1g3st"]
    assert not [name for name in registration.data.metrics if not name.startswith("evaluate/")]
    assert registration.data.tags["mlflow.parentRunId"] == training.data.tags["mlflow.parentRunId"]
    assert registration.data.metrics[promotion.KID] == 0.1
    assert registration.info.status == "FINISHED"
    [logged] = client.search_logged_models([store.experiment_id(client)])
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": NAME, "version": "1"}]
    assert logged.tags["mlflow.note.content"] == versions()["1"].description
    assert {(figure.dataset_name, figure.dataset_digest) for figure in logged.metrics} == {("prepared", "d1g3st")}
    pipeline = client.get_run(training.data.tags["mlflow.parentRunId"])
    assert [[each.model_id for each in run.outputs.model_outputs] for run in (training, pipeline)] == 2 * [
        [logged.model_id]
    ]
    [found] = client.search_runs([store.experiment_id(client)], "attributes.run_name = 'evaluate'")
    # What a search finds has no models.
    evaluation = client.get_run(found.info.run_id)
    assert [each.model_id for each in evaluation.inputs.model_inputs] == [logged.model_id]
    assert [file.path for file in client.list_artifacts(registration.info.run_id)] == [
        "MODEL_CARD.md", "decision.json", "params.yaml",
    ]  # fmt: skip


@pytest.mark.usefixtures("tracking_server")
def test_when_the_champion_has_changed_meanwhile_nothing_half_made_stays() -> None:
    registered(seed=1, kid=0.1)
    candidate = tune(write_model(Path("model-2"), 2), Path("evaluation"), Path("candidate"), NOWHERE.params)
    stale = Decision(decision="accept", champion="7", model_digest=candidate.model.digest)
    for name, before in ((NAME, {"champion": "1"}), ("another", {})):
        with pytest.raises(ChampionChangedError, match="decided against champion 7, but now that is"):
            Registry(name).add(candidate, stale, "a card")
        assert Registry(name).aliases.current() == before
    assert list(versions()) == ["1"]
    client = store.connect()
    assert [found.name for found in client.search_registered_models()] == [NAME]
    assert len(client.search_logged_models([store.experiment_id(client)])) == 1
    failed = client.search_runs([store.experiment_id(client)], "attributes.status = 'FAILED'")
    assert [run.info.run_name for run in failed] == ["register another", "register tiny"]


@pytest.mark.usefixtures("tracking_server")
def test_what_a_killed_registration_left_is_taken_away_by_the_next() -> None:
    registered(seed=1, kid=0.1)
    client = store.connect()
    # Killed before it was decided about.
    client.delete_model_version_tag(NAME, "1", COMPLETE_TAG)
    client.delete_registered_model_alias(NAME, "champion")
    registered(seed=1, kid=0.1)
    assert list(versions()) == ["2"]
    assert COMPLETE_TAG in versions()["2"].tags
    assert Registry(NAME).aliases.current() == {"champion": "2"}
    assert len(client.search_logged_models([store.experiment_id(client)])) == 1


@pytest.mark.usefixtures("tracking_store")
def test_a_local_database_registers_promotes_and_rolls_back() -> None:
    """All other tests of this file have a server, which checks more."""
    registered(seed=1, kid=0.1)
    assert Registry(NAME).metrics("1")[promotion.KID] == 0.1
    assert model_digest(download(f"models:/{NAME}@champion")) == decision()["model_digest"]
    store.connect().create_model_version(NAME, f"models:/{NAME}/1")
    promote(NAME, "2", "a copy")
    assert Registry(NAME).aliases.current() == {"champion": "2", "previous": "1"}
    rollback(NAME, "the original again")
    assert Registry(NAME).aliases.current() == {"champion": "1"}
    assert [entry["event"] for entry in Registry(NAME).aliases.history()] == ["accept", "promote", "rollback"]


@pytest.mark.usefixtures("tracking_server")
def test_a_registration_that_was_killed_after_it_moved_the_champion_is_completed_by_the_next() -> None:
    registered(seed=1, kid=0.1)
    store.connect().delete_model_version_tag(NAME, "1", COMPLETE_TAG)
    assert "this model already" in registered(seed=1, kid=0.1)
    assert list(versions()) == ["1"]
    assert COMPLETE_TAG in versions()["1"].tags
    assert Registry(NAME).aliases.current() == {"champion": "1"}


@pytest.mark.usefixtures("workspace")
def test_a_registry_that_does_not_answer_is_named_and_what_was_made_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(store.StoreError, match=uri) as error:
        registered(seed=1, kid=0.1)
    assert error.value.exit_code == 2
    assert len(str(error.value).splitlines()) == 1
    assert decision()["decision"] == "undecided"
    assert decision()["model_digest"] == model_digest(Path("registration/model"))


@pytest.mark.usefixtures("workspace")
def test_what_the_evaluation_found_about_sampling_goes_into_the_model() -> None:
    tuning = {"timetables": {"ddim": {"3": [9, 5, 1]}}, "sampling": {"num_steps": 3, "sampler": "ddim"}}
    evaluation = write_evaluation(Path("evaluation"), 0.1, tuning)
    trained = write_model(Path("model"))
    tuned = apply_tuning(load_model(trained), trained, evaluation / "tuning.json", Path("out"))
    assert tuned.description.timetables == {"ddim": {"2": (9, 4), "3": (9, 5, 1)}}
    assert (tuned.description.sampling.sampler, tuned.description.sampling.num_steps) == ("ddim", 3)
    assert tuned.description.sampling.guidance_scale == DEFAULT_SAMPLING.guidance_scale
    assert tuned.digest == model_digest(Path("out")) != model_digest(trained)
    assert {path.name for path in Path("out").iterdir()} == {"model.safetensors", "model.json"}


@pytest.mark.parametrize(
    "tuning", [{"sampling": {"speed": 1}}, {"timetables": {"ddim": {"2": ["a"]}}}, {"timetables": 1}]
)
@pytest.mark.usefixtures("workspace")
def test_a_tuning_that_does_not_fit_is_named(tuning: dict[str, Any]) -> None:
    write_evaluation(Path("evaluation"), 0.1, tuning)
    with pytest.raises(FoundryError, match=r"evaluation/tuning\.json: "):
        tune(write_model(Path("model")), Path("evaluation"), Path("out"), NOWHERE.params)
    assert not Path("out").exists()


def test_experiments_never_promote(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "wide-net")
    with pytest.raises(FoundryError, match="experiments never promote .*wide-net"):
        refuse_experiments()
