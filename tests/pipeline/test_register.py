import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import promotion, tracking
from pipeline.diffusion.artefact import (
    DEFAULT_SAMPLING,
    DataSpec,
    Description,
    build_network,
    load_model,
    model_digest,
    save_model,
)
from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.errors import FoundryError
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.unet import UNetConfig
from pipeline.drawing import draw
from pipeline.records import store
from pipeline.records.registry import COMPLETE_TAG, Candidate, Registry, download
from pipeline.register import read_metrics, refuse_experiments, register, write_tuned

NAME = "tiny"


def write_model(folder: Path, seed: int = 0, class_names: tuple[str, ...] | None = ("cat", "dog")) -> Path:
    description = Description(
        data=DataSpec(image_size=8, channels=1, class_names=class_names, sigma_data=0.5),
        network=UNetConfig(widths=(8,), num_blocks=1),
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
    metrics = {promotion.KID: kid, promotion.KID_STANDARD_ERROR: 0.001, "evaluate/recall": 0.5}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    if tuning is not None:
        (folder / "tuning.json").write_text(json.dumps(tuning))
    return folder


def registered(seed: int, kid: float, out: str = "registration") -> str:
    """Make a model, say how good it is, and register it."""
    folder = Path(f"model-{seed}")
    return register(NAME, write_model(folder, seed), write_evaluation(Path("evaluation"), kid), Path(out))


def decision(out: str = "registration") -> Any:
    return json.loads(Path(out, "decision.json").read_text())


def versions() -> dict[str, Any]:
    found = store.connect().search_model_versions(f"name = '{NAME}'")
    return {str(version.version): version for version in found}


@pytest.mark.usefixtures("tracking_store")
def test_the_first_model_is_champion_with_its_evidence() -> None:
    said = registered(seed=1, kid=0.1)
    assert said.startswith("tiny version 1 is champion")
    assert Registry(NAME).aliases() == {"champion": "1"}
    assert decision() == {
        "decision": "accept",
        "rules": [
            {"name": "kid_is_known", "passed": True, "found": 0.1, "wanted": "a finite evaluate/kid"},
            {"name": "champion", "passed": True, "found": None, "wanted": "no champion, or a worse one"},
        ],
        "champion": None,
        "challenger": None,
        "model_digest": model_digest(Path("registration/model")),
    }
    tags = versions()["1"].tags
    assert tags["model.digest"] == decision()["model_digest"]
    assert tags["data.digest"] == "d1g3st"
    assert (tags["decision"], tags["promoted_from"]) == ("accept", "none")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", tags["promoted_at"])
    assert "no champion" in tags["promoted_why"]
    assert Registry(NAME).metrics("1") == read_metrics(Path("evaluation/metrics.json"))


@pytest.mark.usefixtures("tracking_store")
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


@pytest.mark.usefixtures("tracking_store")
def test_a_registered_model_without_classes_draws_without_labels() -> None:
    model = write_model(Path("model"), class_names=None)
    register(NAME, model, write_evaluation(Path("evaluation"), 0.1), Path("registration"))
    import mlflow

    champion = mlflow.pyfunc.load_model("models:/tiny/1")
    assert champion.predict(pd.DataFrame({"seed": [5, 6]})).shape == (2, 8, 8, 1)
    assert champion.predict(pd.DataFrame({"seed": [5], "label": [None]})).shape == (1, 8, 8, 1)


@pytest.mark.usefixtures("tracking_store")
def test_nothing_registered_is_pickled_and_its_requirements_are_exact() -> None:
    registered(seed=1, kid=0.1)
    folder = download("models:/tiny@champion").parents[1]
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {"registered_model.py", "model.safetensors", "model.json", "MLmodel"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth", ".bin"))]
    requirements = (folder / "requirements.txt").read_text().split()
    assert "torch==2.13.0" in requirements
    assert all(re.fullmatch(r"[a-z-]+==[0-9.a-z]+", line) for line in requirements)


@pytest.mark.usefixtures("tracking_store")
def test_the_same_model_twice_makes_no_second_version() -> None:
    registered(seed=1, kid=0.1)
    assert "this model already" in registered(seed=1, kid=0.1)
    assert list(versions()) == ["1"]
    assert decision() | {"model_digest": ""} == {
        "decision": "unchanged", "rules": [], "champion": "1", "challenger": "1", "model_digest": "",
    }  # fmt: skip


@pytest.mark.usefixtures("tracking_store")
def test_a_better_model_is_champion_and_the_old_one_previous() -> None:
    registered(seed=1, kid=0.1)
    registered(seed=2, kid=0.2)
    registered(seed=3, kid=0.05)
    assert Registry(NAME).aliases() == {"champion": "3", "previous": "1"}
    assert versions()["3"].tags["promoted_from"] == "1"
    assert decision()["champion"] == "1"


@pytest.mark.usefixtures("tracking_store")
def test_a_model_that_is_not_better_beyond_its_error_is_challenger() -> None:
    registered(seed=1, kid=0.1)
    assert "kid_is_lower: found 0.099" in registered(seed=2, kid=0.099)
    assert Registry(NAME).aliases() == {"champion": "1", "challenger": "2"}
    assert decision()["decision"] == "reject"
    assert versions()["2"].tags["decision"] == "reject"
    assert "promoted_at" not in versions()["2"].tags


@pytest.mark.usefixtures("tracking_store")
def test_a_version_leads_to_the_run_that_trained_it_and_its_registration_lies_beside_it() -> None:
    folder = write_model(Path("model"))
    with tracking.stage_run("train", params={}) as run:
        run.tags({"model.digest": model_digest(folder)})
    register(NAME, folder, write_evaluation(Path("evaluation"), 0.1), Path("registration"))
    client = store.connect()
    training = client.get_run(versions()["1"].run_id)
    (registration,) = client.search_runs([store.experiment_id(client)], "attributes.run_name = 'register'")
    assert training.info.run_name == "train"
    assert registration.data.tags["mlflow.parentRunId"] == training.data.tags["mlflow.parentRunId"]
    assert registration.data.metrics[promotion.KID] == 0.1
    assert registration.info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(registration.info.run_id)] == ["decision.json"]


@pytest.mark.usefixtures("tracking_store")
def test_when_a_step_fails_nothing_half_made_stays() -> None:
    """The last step, moving aliases, is made to fail by a name that MLflow keeps for itself."""
    registered(seed=1, kid=0.1)
    model = write_tuned(write_model(Path("model-2"), 2), Path("none.json"), Path("candidate/model"))
    Path("evidence.json").write_text("{}")
    candidate = Candidate(
        folder=Path("candidate/model"),
        model=model,
        trained_digest="",
        metrics={},
        evidence=Path("evidence.json"),
        tags={},
    )
    for name, before in ((NAME, {"champion": "1"}), ("another", {})):
        registry = Registry(name)
        with pytest.raises(Exception, match="reserved"):
            registry.add(candidate, {"previous": "new", "champion": "new", "latest": "new"})
        assert registry.aliases() == before
    assert list(versions()) == ["1"]
    client = store.connect()
    assert [registered.name for registered in client.search_registered_models()] == [NAME]
    assert len(client.search_logged_models([store.experiment_id(client)])) == 1
    failed = client.search_runs([store.experiment_id(client)], "attributes.status = 'FAILED'")
    assert [run.info.run_name for run in failed] == ["register", "register"]


@pytest.mark.usefixtures("tracking_store")
def test_what_a_killed_registration_left_is_taken_away_by_the_next() -> None:
    registered(seed=1, kid=0.1)
    registered(seed=2, kid=0.05)
    client = store.connect()
    # Killed just before its last step: the aliases have moved already.
    client.delete_model_version_tag(NAME, "2", COMPLETE_TAG)
    registered(seed=2, kid=0.05)
    champion, previous = Registry(NAME).aliases()["champion"], Registry(NAME).aliases()["previous"]
    assert previous == "1"
    assert set(versions()) == {"1", champion}
    assert COMPLETE_TAG in versions()[champion].tags
    assert decision()["champion"] == "1"
    assert len(client.search_logged_models([store.experiment_id(client)])) == 2


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
    tuned = write_tuned(trained, evaluation / "tuning.json", Path("out"))
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
        write_tuned(write_model(Path("model")), Path("evaluation/tuning.json"), Path("out"))
    assert not Path("out").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"evaluate/kid": "low"}'])
def test_metrics_that_are_none_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(FoundryError, match=r"metrics\.json: "):
        read_metrics(tmp_path / "metrics.json")


def test_a_missing_evaluation_is_named(tmp_path: Path) -> None:
    with pytest.raises(FoundryError, match=r"metrics\.json: No such file"):
        read_metrics(tmp_path / "metrics.json")


def test_experiments_never_promote(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "wide-net")
    with pytest.raises(FoundryError, match="experiments never promote .*wide-net"):
        refuse_experiments()


def test_help_answers_without_torch_and_mlflow(root: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "pipeline.register", "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
    assert "--evaluation FOLDER" in done.stdout
    assert "mlflow" not in done.stderr
    assert "torch" not in done.stderr
