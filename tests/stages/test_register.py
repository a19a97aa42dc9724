"""What `register` writes and decides about a model that it compares with none."""

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from pipeline.artefacts.model import load_model, model_digest
from pipeline.artefacts.sampling_defaults import DEFAULT_SAMPLING
from pipeline.commands.model.champion import promote, rollback
from pipeline.errors import FoundryError
from pipeline.evaluation.results import read_results
from pipeline.evaluation.tuning.apply import apply_tuning
from pipeline.register import publish, refuse_experiments, register, tune
from pipeline.registry.gate import promotion
from pipeline.registry.gate.promotion import Decision
from pipeline.registry.registry import Registry
from pipeline.registry.versions import download, resolve
from pipeline.tracking import runs, store
from tests.stages.registrations import NAME, NOWHERE, decision, registered, versions, write_evaluation, write_model


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
def test_the_same_model_twice_makes_no_second_version() -> None:
    registered(seed=1, kid=0.1)
    assert "this model already" in registered(seed=1, kid=0.1)
    assert list(versions()) == ["1"]
    assert decision() | {"model_digest": ""} == {
        "decision": "accept", "rules": [], "comparison": None, "champion": "1", "version": "1", "model_digest": "",
    }  # fmt: skip


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


@pytest.mark.usefixtures("tracking_store")
def test_a_local_database_registers_promotes_and_rolls_back() -> None:
    """All other tests of registrations have a server, which checks more."""
    registered(seed=1, kid=0.1)
    assert Registry(NAME).metrics("1")[promotion.KID] == 0.1
    assert model_digest(download(f"models:/{NAME}@champion")) == decision()["model_digest"]
    store.connect().create_model_version(NAME, f"models:/{NAME}/1")
    promote(NAME, "2", "a copy")
    assert Registry(NAME).aliases.current() == {"champion": "2", "previous": "1"}
    rollback(NAME, "the original again")
    assert Registry(NAME).aliases.current() == {"champion": "1"}
    assert [entry["event"] for entry in Registry(NAME).aliases.history()] == ["accept", "promote", "rollback"]


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
