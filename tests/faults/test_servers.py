"""The tracking server, its database and its bucket die, come back, are slow, full or read-only, and lose nothing."""

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.tracking import runs, store
from pipeline.tracking.outbox import ownerless
from tests.faults import small_project
from tests.processes import start, wait_for
from tests.proxy import Proxy
from tests.servers import Name, Servers
from tests.tracking.stored import curve, files, stored_runs

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

SERVERS: tuple[Name, ...] = ("tracking", "database", "s3")
LONG = 64_000
"""Images of a training that is not over when its first figures have arrived."""
WRITER = """
import pathlib, sys
from pipeline.tracking import runs
name = sys.argv[1]
path = pathlib.Path(f"{name}.bin")
path.write_bytes(name.encode() * 10_000)
with runs.stage_run(name, params={}) as run:
    for step in range(200):
        run.metrics({"train/loss": float(step)}, step=step)
    run.artifact(path)
"""


@pytest.fixture
def project(tracking_server: Path, made: Path) -> Path:
    """A project in which every stage has run, before an empty tracking server."""
    folder = tracking_server / "project"
    # Without hard links to what others read.
    subprocess.run(["cp", "-r", str(made), str(folder)], check=True)
    return folder


@pytest.fixture
def proxy(servers: Servers, monkeypatch: pytest.MonkeyPatch, tracking_server: Path) -> Proxy:
    """Before the tracking server, and its address in MLFLOW_TRACKING_URI."""
    assert tracking_server.is_dir()
    made = Proxy(("127.0.0.1", int(servers.tracking_uri.rpartition(":")[2])))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.url)
    return made


@pytest.fixture(autouse=True)
def _all_run(servers: Servers) -> Iterator[None]:
    """What a test that fails has killed or made read-only is there for the next."""
    yield
    for name in servers.killed.copy():
        servers.start(name)
    servers.unprotect()


def _set(project: Path, section: str, **values: object) -> None:
    document = yaml.safe_load((project / "params.yaml").read_text())
    document[section] |= values
    (project / "params.yaml").write_text(yaml.safe_dump(document))


def _everything_of(project: Path, train: Any) -> None:
    """Every point of the training's curve is there once, and so are its files."""
    with (project / "data" / "model" / "curves.csv").open() as table:
        wanted = [(int(row["images"]), float(row["train/loss"])) for row in csv.DictReader(table)]
    assert curve(train, "train/loss") == wanted
    assert sorted(files(train)) == ["curves.csv", "held_out.csv"]


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_that_dies_under_a_training_has_everything_once_after_the_next_stage(
    project: Path, servers: Servers, name: Name
) -> None:
    _set(project, "train", num_images=LONG)
    command, environment = small_project.command("train"), small_project.environment(**servers.environment)
    training = start(command, cwd=project, env=environment, stderr=subprocess.PIPE)
    wait_for(lambda: any(curve(run, "train/loss") for run in stored_runs("train")), training)
    assert training.poll() is None
    servers.stop(name)
    _, errors = training.communicate()
    assert training.returncode == 0, errors
    assert "the stage goes on, `foundry runs sync` sends the rest" in errors

    servers.start(name)
    done = small_project.run(project, small_project.command("evaluate"), **servers.environment)
    assert done.returncode == 0, done.stderr
    (train,), (evaluate,) = stored_runs("train"), stored_runs("evaluate")
    assert {run.info.status for run in stored_runs()} == {"FINISHED"}
    _everything_of(project, train)
    metrics = json.loads((project / "data" / "evaluation" / "metrics.json").read_text())
    assert evaluate.data.metrics.items() >= metrics.items()
    assert not (project / ".foundry" / "refused").exists()


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_that_dies_under_a_registration_and_comes_back_has_the_model_once(
    project: Path, servers: Servers, proxy: Proxy, name: Name
) -> None:
    at = {
        "tracking": b"model-versions/create",
        "database": b"model-versions/create",
        "s3": b"PUT /api/2.0/mlflow-artifacts",
    }
    proxy.on_request[at[name]] = lambda: servers.stop(name)
    failed = _register(project, proxy, servers)
    assert not proxy.on_request, "the registration came to where the server is killed"
    assert failed.returncode == 2, failed.stderr
    assert f"{proxy.url}: " in failed.stderr
    assert "type the command again" in failed.stderr

    servers.start(name)
    again = _register(project, proxy, servers)
    assert again.returncode == 0, again.stderr
    _is_registered_once(project, servers)
    assert "is this model already" in _register(project, proxy, servers).stdout
    _is_registered_once(project, servers)


@pytest.mark.parametrize(
    "call",
    [b"POST /api/2.0/mlflow/logged-models ", b"model-versions/create", b"registered-models/create", b"runs/create"],
)
def test_a_call_of_a_registration_whose_answer_is_lost_makes_nothing_twice(
    project: Path, servers: Servers, proxy: Proxy, call: bytes
) -> None:
    proxy.lost_answers.add(call)
    first = _register(project, proxy, servers)
    assert not proxy.lost_answers, "the registration makes this call"
    if first.returncode:
        assert "type the command again" in first.stderr
        again = _register(project, proxy, servers)
        assert again.returncode == 0, again.stderr
    _is_registered_once(project, servers)


def _register(project: Path, proxy: Proxy, servers: Servers) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *small_project.COMMANDS["register"], *small_project.STAGES["register"]]
    return small_project.run(project, command, **servers.environment | {"MLFLOW_TRACKING_URI": proxy.url})


def _is_registered_once(project: Path, servers: Servers) -> None:
    """One version, of one logged model, with what decision.json tells; and no run of a process that has ended counts as running."""
    synced = small_project.run(project, [sys.executable, "-m", "pipeline", "runs", "sync"], **servers.environment)
    assert synced.returncode == 0, synced.stderr
    client = store.connect()
    (version,) = client.search_model_versions("name = 'digits'")
    decision = json.loads((project / "data" / "registration" / "decision.json").read_text())
    assert version.tags["decision"] == decision["decision"]
    (model,) = client.search_logged_models([store.experiment_id(client)])
    assert version.source == f"models:/{model.model_id}"
    assert "RUNNING" not in {run.info.status for run in stored_runs()}


def test_a_slow_server_fails_no_stage_and_has_everything_once(project: Path, servers: Servers, proxy: Proxy) -> None:
    _set(project, "train", num_images=3200)
    proxy.delay_sec = 0.1
    environment = servers.environment | {"MLFLOW_TRACKING_URI": proxy.url}
    done = small_project.run(project, small_project.command("train"), **environment)
    assert done.returncode == 0, done.stderr
    synced = small_project.run(project, [sys.executable, "-m", "pipeline", "runs", "sync"], **environment)
    assert synced.returncode == 0, synced.stderr
    proxy.delay_sec = 0.0
    (train,) = stored_runs("train")
    assert train.info.status == "FINISHED"
    _everything_of(project, train)


@pytest.mark.parametrize(
    "call", [b"runs/create", b"runs/log-batch", b"runs/log-inputs", b"PUT /api/2.0/mlflow-artifacts"]
)
def test_a_call_of_a_stage_whose_answer_is_lost_leaves_nothing_twice(
    tracking_server: Path, proxy: Proxy, call: bytes
) -> None:
    (tracking_server / "report.html").write_text("report")
    proxy.lost_answers.add(call)
    with runs.stage_run("train", params={"train": {"seed": 1}}) as run:
        run.metrics({"train/loss": 0.5}, step=1)
        run.dataset("0123456789")
        run.artifact(tracking_server / "report.html")
    runs.sync()
    assert not proxy.lost_answers, "the stage makes this call"
    (train,) = stored_runs("train")
    assert (curve(train, "train/loss"), files(train)) == ([(1, 0.5)], ["report.html"])
    assert len(train.inputs.dataset_inputs) == 1
    assert [run.info.status for run in stored_runs()] == ["FINISHED"] * 2


def test_eight_runs_that_write_at_once_are_all_there_once(tracking_server: Path, servers: Servers) -> None:
    names = [f"writer-{number}" for number in range(8)]
    environment = small_project.environment(**servers.environment)
    writers = [
        start([sys.executable, "-c", WRITER, name], cwd=tracking_server, env=environment, stderr=subprocess.PIPE)
        for name in names
    ]
    for writer in writers:
        _, errors = writer.communicate()
        assert writer.returncode == 0, errors
    runs.sync()
    for name in names:
        (run,) = stored_runs(name)
        assert run.info.status == "FINISHED"
        assert curve(run, "train/loss") == [(step, float(step)) for step in range(200)]
        path = store.connect().download_artifacts(run.info.run_id, f"{name}.bin")
        assert Path(path).read_bytes() == name.encode() * 10_000
    assert list(ownerless(tracking_server / ".foundry" / "outbox")) == []


def test_an_upload_that_is_cut_in_the_middle_is_made_again_as_a_whole(tracking_server: Path, proxy: Proxy) -> None:
    content = bytes(range(256)) * 8192
    (tracking_server / "large.bin").write_bytes(content)
    proxy.upload_limit = len(content) // 2
    with runs.stage_run("evaluate", params={}) as run:
        run.artifact(tracking_server / "large.bin")
    runs.sync()
    assert proxy.upload_limit is None, "an upload was cut"
    (evaluate,) = stored_runs("evaluate")
    assert files(evaluate) == ["large.bin"]
    path = store.connect().download_artifacts(evaluate.info.run_id, "large.bin")
    assert Path(path).read_bytes() == content


def test_what_a_read_only_database_refuses_is_sent_when_it_takes_it(
    tracking_server: Path, servers: Servers, capsys: pytest.CaptureFixture[str]
) -> None:
    store.experiment_id(store.connect())
    servers.protect()
    with runs.stage_run("train", params={}) as run:
        run.metrics({"train/loss": 0.5}, step=1)
    assert "`foundry runs sync` sends the rest" in capsys.readouterr().err
    with pytest.raises(store.StoreError, match="read-only transaction.*type the command again"):
        runs.sync()
    servers.unprotect()
    assert runs.sync() == 1
    (train,) = stored_runs("train")
    assert (curve(train, "train/loss"), train.info.status) == ([(1, 0.5)], "FINISHED")
    assert not (tracking_server / ".foundry" / "refused").exists()
