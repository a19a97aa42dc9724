"""What the whole pipeline and the service never do, watched from inside of every process (tests/faults/watch)."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from packaging.utils import canonicalize_name

from pipeline.export import requirements
from tests.faults import small_project
from tests.faults.namespaces import needs_network_rooms, without_network
from tests.project import CHECKOUT, LOG, WATCH, Project, run_pipeline, watch
from tests.service.conftest import write_model
from tests.service.server import serving

# The whole pipeline is run once, every process under watch.
pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[1]
Heard = dict[str, list[dict[str, str]]]


def _heard(log: Path) -> Heard:
    found: Heard = defaultdict(list)
    for line in log.read_text().splitlines():
        entry = json.loads(line)
        found[entry["kind"]].append(entry)
    return found


@pytest.fixture(scope="module")
def pipeline(
    made_once: Callable[[str, Callable[[Path], None]], Path],
    digits: tuple[NDArray[np.uint8], NDArray[np.int64]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Heard:
    """What is heard in `dvc repro` and in what follows it."""
    ran = made_once("pipeline", lambda folder: run_pipeline(folder, digits))
    folder = tmp_path_factory.mktemp("watched") / "copy"
    shutil.copytree(ran, folder, symlinks=True)
    project = watch(Project(folder / CHECKOUT), folder / LOG)
    register, model = small_project.STAGES["register"], "models:/digits@champion"
    for command in (
        ["python", "-m", "pipeline", "model", "register", *register],
        ["python", "-m", "pipeline", "model", "promote", "1", "--reason", "so small a training beats no baseline"],
        ["python", "-m", "pipeline", "sample", "--model", model, "--num-images", "2", "--out", "drawn.npz"],
        ["python", "-m", "pipeline", "runs", "sync"],
    ):
        project.run(*without_network(), *command)
    return _heard(folder / LOG)


def _unbilled() -> set[str]:
    """Top-level modules that are installed here and are not the service's, by its bill of materials."""
    bill = {*requirements.served(), "diffusion-foundry"}
    owners = importlib.metadata.packages_distributions()
    return {name for name, packages in owners.items() if not {canonicalize_name(each) for each in packages} & bill}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Heard:
    """The service, started and asked for images, in its many forms."""
    home = tmp_path_factory.mktemp("served")
    log = home / "watch.log"
    environment = {
        "PYTHONPATH": f"{WATCH}:{ROOT}",
        "WATCH_LOG": str(log),
        "WATCH_FORBIDDEN": ",".join(_unbilled()),
    }
    with serving(write_model(home / "model"), home, **environment) as server:
        assert server.post(steps=2, n=2).status_code == 200
        assert server.post("/generate", steps=2).status_code == 200
        assert server.get("/metrics").status_code == 200
    return _heard(log)


def test_the_pipeline_unpickles_nothing(pipeline: Heard) -> None:
    commands = " ".join(entry["command"] for entry in pipeline["begin"])
    for stage in small_project.STAGES:
        assert f"-m pipeline.{stage} " in commands or f"-m pipeline model {stage}" in commands
    assert any("dvc" in entry["command"] for entry in pipeline["begin"])
    assert pipeline["pickle"] == []


def test_the_service_unpickles_nothing(service: Heard) -> None:
    assert service["begin"]
    assert service["pickle"] == []


def test_the_pipeline_calls_nobody(pipeline: Heard) -> None:
    assert pipeline["connect"] == pipeline["resolve"] == []


@needs_network_rooms
@pytest.mark.usefixtures("pipeline")
def test_the_pipeline_has_worked_where_there_is_no_network() -> None:
    code = "import socket; socket.create_connection(('192.0.2.1', 9), timeout=1)"
    done = subprocess.run([*without_network(), sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Network is unreachable" in done.stderr


def test_the_service_calls_nobody(service: Heard) -> None:
    assert service["connect"] == service["resolve"] == []


def test_the_watch_would_have_seen_it(tmp_path: Path) -> None:
    code = """
import contextlib, io, pickle, socket, torch
with contextlib.suppress(Exception):
    pickle.loads(pickle.dumps(1))
buffer = io.BytesIO()
torch.save([1], buffer)
buffer.seek(0)
with contextlib.suppress(Exception):
    torch.load(buffer, weights_only=False)
with contextlib.suppress(OSError), socket.socket() as caller:
    caller.settimeout(0.1)
    caller.connect(("192.0.2.1", 9))
with contextlib.suppress(OSError):
    socket.getaddrinfo("example.invalid", 80)
"""
    log = tmp_path / "watch.log"
    environment = small_project.environment(PYTHONPATH=str(WATCH), WATCH_LOG=str(log))
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    heard = _heard(log)
    assert [entry["what"].split(".")[0] for entry in heard["pickle"]] == ["__main__", "torch"]
    assert [entry["what"] for entry in heard["connect"]] == ["('192.0.2.1', 9)"]
    assert [entry["what"] for entry in heard["resolve"]] == ["'example.invalid'"]


def test_the_service_needs_no_package_that_is_not_in_its_bill_of_materials(service: Heard) -> None:
    """It has answered where all others could not be imported; some of them it would have liked."""
    assert len(_unbilled()) > 100
    assert {"mlflow", "pandas", "dvc", "PIL"} & _unbilled() == {"mlflow", "pandas", "dvc"}
    assert {entry["what"] for entry in service["refused"]} <= _unbilled()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_native_code_opens_no_internet_socket_unless_the_telemetry_is_left_on(tmp_path: Path) -> None:
    """ONNX Runtime looks up its telemetry's address soon after its import and writes a device id below ~/.cache."""
    took = _until_a_socket_is_opened("import onnxruntime", tmp_path / "default", 60)
    assert took is not None
    assert _until_a_socket_is_opened("import service, onnxruntime", tmp_path / "ours", 2 * took + 2) is None
    assert [(tmp_path / name / ".cache").exists() for name in ("default", "ours")] == [True, False]


def _until_a_socket_is_opened(code: str, home: Path, timeout_sec: float) -> float | None:
    """Seconds until a process that runs `code` opens an internet socket; None if it does not."""
    home.mkdir()
    trace = home / "trace"
    command = ["strace", "-f", "-e", "trace=socket", "-o", str(trace), sys.executable, "-c", f"{code}; input()"]
    # Nothing of our environment: ONNX Runtime sends nothing where it finds CI=true either.
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT)}
    start = time.monotonic()
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) as process:
        while (waited := time.monotonic() - start) < timeout_sec and not (opened := _opens_a_socket(trace)):
            time.sleep(0.2)
        process.communicate(b"\n")
    return waited if opened else None


def _opens_a_socket(trace: Path) -> bool:
    return trace.exists() and "AF_INET" in trace.read_text()
