"""`foundry doctor`: each thing that can be wrong is wrong here, and is named with what to type."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
import yaml

from pipeline.commands import doctor
from pipeline.commands.doctor import Finding, findings
from pipeline.errors import CheckFailedError
from tests.command_line import foundry
from tests.dvc_project import Project

ROOT = Path(__file__).parents[2]
STAGES = "stages: {copy: {cmd: cp params.yaml result, deps: [params.yaml], outs: [result]}}\n"


@pytest.fixture
def project(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The working folder, with a commit, valid params and one stage."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made = Project(workspace, "")
    shutil.copyfile(ROOT / "tests" / "params.yaml", workspace / "params.yaml")
    made.write("dvc.yaml", STAGES)
    made.commit("A project")
    return made


def found(subject: str) -> list[Finding]:
    return list(findings(doctor.CHECKS[subject]))


def wrong(subject: str) -> str:
    [text] = [finding.text for finding in found(subject) if finding.state == "WRONG"]
    return text


def notes(subject: str) -> str:
    return "\n".join(finding.text for finding in found(subject) if finding.state == "note")


def test_of_a_sound_installation_nothing_is_called_wrong(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.dvc("repro", "-q")
    foundry("doctor")
    lines = capsys.readouterr().out.splitlines()
    assert list(dict.fromkeys(line[6:15].strip() for line in lines)) == [
        subject for subject in doctor.CHECKS if subject != "packages"
    ], "constraints.txt is not here"
    assert not [line for line in lines if line.startswith("WRONG")]
    assert "ok    stages   all are up to date" in lines
    assert sorted(path.name for path in project.folder.iterdir() if not path.name.startswith(".")) == [
        "dvc.lock", "dvc.yaml", "params.yaml", "result",
    ]  # fmt: skip


def test_what_is_wrong_is_the_exit_code_and_ends_no_look_that_follows(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.write("params.yaml", "train: {}\n")
    with pytest.raises(CheckFailedError, match=r"wrong: params, memory$"):
        foundry("doctor")
    said = capsys.readouterr().out
    assert "WRONG params   params.yaml: prepare: " in said
    assert "ok    ports" in said or "note  ports" in said


def test_packages_of_other_versions_are_named(project: Project) -> None:
    project.write("constraints.txt", "# made by hand\nnumpy==1.0\ntorch==2.0; python_version < '3'\nno-such-thing==1\n")
    assert wrong("packages").startswith("not those of constraints.txt: numpy ")
    assert wrong("packages").endswith("(==1.0): `touch constraints.txt; make install`")
    shutil.copyfile(ROOT / "constraints.txt", "constraints.txt")
    assert [finding.state for finding in found("packages")] == ["ok"]


def test_a_training_that_memory_cannot_hold_is_refused_with_what_fits(project: Project) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["train"] |= {"batch_size": 1 << 16, "micro_batch_size": None}
    params["train"]["network"] |= {"patch_size": 1, "widths": [128]}
    project.write("params.yaml", yaml.safe_dump(params))
    assert "foundry set train.micro_batch_size=" in wrong("memory")


def test_too_full_a_disk_and_a_home_that_cannot_be_written_are_named(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    del project
    monkeypatch.setattr(doctor, "GIB", shutil.disk_usage(".").total)
    monkeypatch.setenv("HOME", "/proc/nowhere")
    texts = [finding.text for finding in found("disk") if finding.state == "WRONG"]
    assert ["foundry gc" in text for text in texts] == [True, False]
    assert texts[1] == "/proc/nowhere cannot be written, where packages keep their files: set HOME"


def test_a_folder_without_commits_and_a_head_without_a_branch_are_told_the_way_back(
    project: Project, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.run("git", "checkout", "-q", "--detach")
    assert "`git switch main`" in notes("git")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert "no git repository with a commit" in wrong("git")


def test_a_clock_behind_the_newest_commit_is_wrong(project: Project) -> None:
    assert [finding.state for finding in found("clock")] == ["ok"]
    project.environment["GIT_COMMITTER_DATE"] = "2099-01-01T00:00:00Z"
    project.run("git", "commit", "-q", "--allow-empty", "-m", "From the future")
    assert "the newest commit is of 2099-01-01" in wrong("clock")


def test_stages_that_would_run_and_missing_images_are_notes(project: Project) -> None:
    del project
    assert "`dvc repro` would run copy" in notes("stages")
    assert "no images in data/raw" in notes("stages")


def test_a_remote_is_named_with_what_it_lacks(project: Project) -> None:
    assert "dvc remote add" in notes("remote")
    project.dvc("remote", "add", "-q", "-d", "storage", str(project.folder.parent / "remote"))
    project.dvc("repro", "-q")
    assert "lacks or has 1 outs" in notes("remote")
    project.dvc("push", "-q")
    assert [finding.state for finding in found("remote")] == ["ok"]
    project.dvc("remote", "modify", "-q", "storage", "url", "gs://bucket/store")
    assert "requires 'dvc-gs' to be installed" in wrong("remote")


def test_a_tracking_store_is_looked_at_and_neither_made_nor_changed(
    project: Project, tracking_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tracking_store.read_bytes()
    assert [finding.state for finding in found("tracking")] == ["ok"]
    assert tracking_store.read_bytes() == before
    tracking_store.write_bytes(before[:5000] + os.urandom(5000) + before[10_000:])
    assert ".recover` rescues" in wrong("tracking")
    tracking_store.unlink()
    assert "the first run makes it" in notes("tracking")
    assert not tracking_store.exists()

    project.write(".foundry/outbox/00000000000000000001-abc/entries.jsonl", "")
    project.write(".foundry/refused/00000000000000000002-abc/refused.jsonl", json.dumps({"reason": "too long"}))
    assert "running stages: 1; " in notes("tracking")
    assert "00000000000000000002-abc/refused.jsonl has the reasons" in notes("tracking")

    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert wrong("tracking").startswith(f"{uri}: ")


def test_a_port_that_is_taken_is_told_with_another(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    del project
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(doctor, "PORTS", {port: "serve"})
        assert f"`make serve PORT={port + 1}` takes another" in notes("ports")
    assert [finding.state for finding in found("ports")] == ["ok"]
