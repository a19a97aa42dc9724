"""The registered model works without this project, as `mlflow.pyfunc.load_model`, `models predict` and `models serve`."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests

from pipeline.artefacts.model import load_model
from pipeline.errors import FoundryError
from pipeline.inference.draw import draw
from pipeline.registry.logged_model import save_logged_model
from tests.servers import free_port, wait_until

LOAD = """
import json, sys
import mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
import pipeline
images = model.predict(pandas.DataFrame({"seed": [5, 6], "label": [1, None]}))
print(json.dumps([pipeline.__file__, images.tolist()]))
"""


@pytest.fixture(scope="module")
def logged(small_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small_model_folder` in MLflow's format."""
    folder = tmp_path_factory.mktemp("logged") / "model"
    save_logged_model(folder, small_model_folder, load_model(small_model_folder))
    return folder


def run(*command: str, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def environment() -> dict[str, str]:
    """One that knows no project and no store."""
    outside = ("PYTHON", "MLFLOW_", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(outside)}


def test_its_code_is_the_copy_that_was_stored_with_it(logged: Path, small_model_folder: Path, tmp_path: Path) -> None:
    source, images = json.loads(run(sys.executable, "-c", LOAD, str(logged), folder=tmp_path).splitlines()[-1])
    assert Path(source) == logged / "code" / "pipeline" / "__init__.py"
    assert np.array_equal(images, draw(load_model(small_model_folder), [5, 6], [1, 2]))


@pytest.mark.parametrize(
    ("rows", "params", "message"),
    [
        ({"seed": [1, -1]}, {}, r"seed: should be 0 … 2\^63 - 1 \(got -1\)"),
        ({"seed": [1], "label": [2]}, {}, r"label: should be 0 … 1 or null \(got 2\)"),
        ({"seed": [1], "label": [0.5]}, {}, r"label: should be 0 … 1 or null \(got 0.5\)"),
        ({"seed": [1]}, {"sampler": "euler"}, r"sampler: should be one of ddpm, ddim, dpmpp_2m \(got euler\)"),
        ({"seed": [1]}, {"steps": 51}, r"steps.*51"),
        ({"seed": [1]}, {"guidance_scale": float("nan")}, r"guidance_scale: should be a finite number \(got nan\)"),
    ],
)
def test_invalid_rows_and_params_are_named_by_an_error_of_ours(
    rows: dict[str, Any], params: dict[str, Any], message: str, logged: Path
) -> None:
    import mlflow

    with pytest.raises(FoundryError, match=message):
        mlflow.pyfunc.load_model(str(logged)).predict(pd.DataFrame(rows), params)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_it_works_in_an_environment_of_its_own_requirements(
    logged: Path, small_model_folder: Path, tmp_path: Path
) -> None:
    """Made by uv: from PyPI, or from where PIP_FIND_LINKS has builds of torch."""
    python = str(tmp_path / "venv" / "bin" / "python")
    mlflow = str(tmp_path / "venv" / "bin" / "mlflow")
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"), folder=tmp_path)
    links = ("--find-links", os.environ["PIP_FIND_LINKS"]) if "PIP_FIND_LINKS" in os.environ else ()
    uv = (sys.executable, "-m", "uv")
    run(*uv, "pip", "install", "-q", *links, "--python", python, "-r", f"{logged}/requirements.txt", folder=tmp_path)
    with pytest.raises(AssertionError, match="No module named 'pipeline'"):
        run(python, "-c", "import pipeline", folder=tmp_path)

    wanted = draw(load_model(small_model_folder), [5, 6], [1, 2])
    source, images = json.loads(run(python, "-c", LOAD, str(logged), folder=tmp_path).splitlines()[-1])
    assert Path(source).is_relative_to(logged)
    assert np.array_equal(images, wanted)

    request = {"inputs": {"seed": [5, 6], "label": [1, None]}}
    (tmp_path / "request.json").write_text(json.dumps(request))
    options = ("-m", str(logged), "--env-manager", "local")
    run(mlflow, "models", "predict", *options, "-i", "request.json", "-o", "answer.json", folder=tmp_path)
    assert np.array_equal(json.loads((tmp_path / "answer.json").read_text())["predictions"], wanted)

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    served = [mlflow, "models", "serve", *options, "--port", str(port)]
    with subprocess.Popen(served, cwd=tmp_path, env=environment(), start_new_session=True) as process:
        try:
            wait_until(lambda: answers(url), timeout_sec=120)
            answer = requests.post(f"{url}/invocations", json=request, timeout=60)
            assert answer.status_code == 200, answer.text
            assert np.array_equal(answer.json()["predictions"], wanted)
            example = (logged / "serving_input_example.json").read_text()
            header = {"Content-Type": "application/json"}
            assert requests.post(f"{url}/invocations", data=example, headers=header, timeout=60).status_code == 200
            wrong = requests.post(f"{url}/invocations", json={"inputs": {"seed": [5], "label": [7]}}, timeout=60)
            assert wrong.status_code == 400
            assert "label: should be 0 … 1 or null (got 7)" in wrong.json()["message"]
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/ping", timeout=1).ok
    except requests.ConnectionError:
        return False
