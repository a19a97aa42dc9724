"""A registered model as MLflow loads it."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.artefacts.model import load_model
from pipeline.inference.draw import draw
from pipeline.register import register
from pipeline.registry.versions import download
from tests.stages.registrations import NAME, NOWHERE, registered, write_evaluation, write_model


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
