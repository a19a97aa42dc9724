"""`foundry remotes-check`: a champion is stored where it outlives the machine, and what that needs is installed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.commands import check_remotes
from pipeline.commands.check_remotes import location_problems, remote_problems, tracking_problems
from tests.deploy.environment import ROOT, environment
from tests.servers import Servers

COMMAND = [sys.executable, "-m", "pipeline", "remotes-check"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True, env=environment())
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=tmp_path, check=True, env=environment())
    return tmp_path


@pytest.mark.parametrize("uri", ["", "sqlite:///mlflow.db", "mlruns", "file:///somewhere"])
def test_a_champion_is_not_trusted_to_a_machine_that_goes_away(uri: str) -> None:
    [problem] = tracking_problems(uri, "")
    assert "outlives" in problem


@pytest.mark.parametrize("location", ["mlruns/1", "/srv/mlartifacts", "file:///srv/mlartifacts"])
def test_nor_are_its_files(location: str) -> None:
    [problem] = location_problems(location, "")
    assert f"go to {location} on this machine" in problem
    assert list(location_problems(location, "file:///srv")) == [], "a person has chosen it"


def test_a_database_needs_a_place_for_artefacts() -> None:
    [problem] = tracking_problems("postgresql+psycopg://server/mlflow", "")
    assert problem.startswith("MLFLOW_DEFAULT_ARTIFACT_ROOT: ")
    assert list(tracking_problems("postgresql+psycopg://server/mlflow", "s3://bucket/mlflow")) == []


@pytest.mark.parametrize(
    ("uri", "wanted"),
    [
        ("postgresql+psycopg2://server/mlflow", "driver psycopg2 is not installed; .*postgresql\\+psycopg://"),
        ("mysql+pymysql://server/mlflow", "pip install pymysql"),
        ("postgresql+nonsense://server/mlflow", "an address that SQLAlchemy knows"),
    ],
)
def test_a_driver_that_is_not_installed_is_named_with_what_to_type(uri: str, wanted: str) -> None:
    [problem] = tracking_problems(uri, "s3://bucket/mlflow")
    assert re.search(wanted, problem)


def test_so_is_the_package_of_a_remote_and_of_a_place_for_artefacts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(remote_problems("/mnt/share")) == list(remote_problems("s3://bucket/store")) == []
    [problem] = remote_problems("gs://bucket/store")
    assert problem.startswith(
        "DVC_REMOTE: gs is supported, but requires 'dvc-gs' to be installed: `.venv/bin/pip install dvc-gs"
    )
    [problem] = remote_problems("dropbox://store")
    assert "should be a path or one of azure, " in problem
    monkeypatch.setattr(check_remotes, "find_spec", lambda _: None)
    assert "which needs boto3" in next(location_problems("s3://bucket/mlflow", ""))


@pytest.mark.parametrize(
    ("variable", "address", "extras"),
    [
        ("DVC_REMOTE", "s3://bucket/store", ["s3"]),
        ("MLFLOW_TRACKING_URI", "postgresql+psycopg://server/mlflow", ["postgres"]),
        ("MLFLOW_DEFAULT_ARTIFACT_ROOT", "s3://bucket/$(shell touch made)", ["s3"]),
        ("DVC_REMOTE", "/mnt/share", []),
    ],
)
def test_make_install_brings_what_configured_stores_need(
    variable: str, address: str, extras: list[str], tmp_path: Path
) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    assert installed(tmp_path, **{variable: address}) == ["train,serve,export", *extras]
    assert not (tmp_path / "made").exists()
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config.local").write_text(f"['remote \"storage\"']\n    url = {address}\n")
    if variable == "DVC_REMOTE":
        assert installed(tmp_path) == ["train,serve,export", *extras]


def test_an_environment_that_was_copied_with_its_project_is_made_again(tmp_path: Path) -> None:
    """Its scripts would run the original's code."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    venv = tmp_path / ".venv"
    venv.mkdir()
    for place, wanted in ((tmp_path, []), (tmp_path / "original", ["train,serve,export"])):
        (venv / "installed").touch()
        (venv / "pyvenv.cfg").write_text(f"command = python3 -m venv {place}/.venv\n")
        assert installed(tmp_path) == wanted


def installed(folder: Path, **variables: str) -> list[str]:
    """The extras that `make install` would install."""
    command = ["make", "--dry-run", "install"]
    said = subprocess.run(command, cwd=folder, env=environment(**variables), capture_output=True, text=True, check=True)
    return re.findall(r'^echo "installing (\S+) into', said.stdout, re.MULTILINE)


def test_without_the_driver_of_a_store_a_command_names_it(repository: Path) -> None:
    given = environment(MLFLOW_TRACKING_URI="mysql+pymysql://somebody@127.0.0.1/mlflow")
    command = [sys.executable, "-m", "pipeline", "runs", "list"]
    done = subprocess.run(command, cwd=repository, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "needs the package pymysql, which is not installed; `make remotes` shows the command" in done.stderr


def test_the_command_names_all_that_is_missing(repository: Path) -> None:
    done = subprocess.run(COMMAND, cwd=repository, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["MLFLOW_TRACKING_URI", "DVC_REMOTE"]


def test_a_server_and_a_remote_from_the_environment_are_enough(repository: Path, servers: Servers) -> None:
    given = environment(**servers.environment, DVC_REMOTE="s3://bucket/store")
    subprocess.run(COMMAND, cwd=repository, env=given, check=True)
    assert "s3://bucket/store" in (repository / ".dvc" / "config.local").read_text()
    assert "bucket" not in (repository / ".dvc" / "config").read_text()


def test_artefacts_of_a_database_go_where_its_variable_says(repository: Path, servers: Servers) -> None:
    servers.forget()
    given = environment(MLFLOW_TRACKING_URI=servers.database_uri, DVC_REMOTE="s3://bucket/store")
    done = subprocess.run(COMMAND, cwd=repository, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("MLFLOW_DEFAULT_ARTIFACT_ROOT: ")
    given["MLFLOW_DEFAULT_ARTIFACT_ROOT"] = "s3://bucket/mlflow"
    subprocess.run(COMMAND, cwd=repository, env=given, check=True)
    code = "from pipeline.tracking import store; print(store.artifact_location())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, env=given, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "s3://bucket/mlflow"
