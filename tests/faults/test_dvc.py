"""What DVC does where a stage cannot: two runs at once, outs that somebody has changed, a remote that dies."""

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.artefacts.dataset import Dataset
from tests.faults import small_project
from tests.processes import start, wait_for
from tests.project import Project, check_out
from tests.proxy import Proxy
from tests.servers import BUCKET, Servers


@pytest.fixture
def project(tmp_path: Path, digits: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> Project:
    project = check_out(tmp_path)
    small_project.write_inputs(tmp_path, digits)
    project.run("git", "init", "-q", "-b", "main")
    project.run("dvc", "add", "-q", "data/raw")
    return project


def _start(project: Project) -> subprocess.Popen[str]:
    return start(
        ["dvc", "repro", "prepare"],
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_after_a_killed_experiment_git_switch_leads_back_to_the_branch(project: Project) -> None:
    project.commit("A project")
    log = project.folder / "raw-is-slow"
    # A stage that hangs, in the place of one that is under way when the machine goes down.
    stages = f"stages: {{wait: {{cmd: touch {log} && sleep 100, params: [train.seed]}}}}"
    (project.folder / "dvc.yaml").write_text(stages)
    project.commit("A stage that waits")
    experiment = start(
        ["dvc", "exp", "run", "-q", "-S", "train.seed=7"],
        cwd=project.folder,
        env=project.environment,
        start_new_session=True,
    )
    wait_for(log.exists, experiment)
    os.killpg(experiment.pid, signal.SIGKILL)
    experiment.wait()
    assert project.run("git", "branch", "--show-current") == ""
    assert "seed: 7" in project.run("git", "diff", "params.yaml")

    project.run("git", "switch", "-q", "main")
    project.run("git", "restore", "params.yaml")
    assert project.run("git", "branch", "--show-current") == "main\n"
    assert project.run("git", "status", "--porcelain", "--untracked-files=no") == ""


def test_of_two_runs_at_once_one_waits_or_is_refused_and_changed_outs_are_made_again(project: Project) -> None:
    runs = [_start(project) for _ in range(2)]
    said = [run.communicate()[0] for run in runs]
    codes = [run.returncode for run in runs]
    assert 0 in codes, said
    for code, words in zip(codes, said, strict=True):
        assert code == 0 or "lock" in words, words
    out = project.folder / "data" / "prepared"
    digest = Dataset.open(out).info.digest

    # The same bytes would not be noticed by size and time alone; DVC looks at the content.
    shard = out / "train" / "images-00000.npy"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.unlink()
    shard.write_bytes(content)
    project.run("dvc", "repro", "prepare")
    assert Dataset.open(out).info.digest == digest


@pytest.mark.long
def test_a_push_to_a_bucket_that_dies_in_the_middle_is_completed_by_the_next(
    project: Project, servers: Servers
) -> None:
    folder = project.folder / "data" / "many"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number}.bin").write_bytes(bytes([number]) * 1000)
    project.run("dvc", "add", "-q", "data/many")
    bucket = Proxy(("127.0.0.1", int(servers.s3_url.rpartition(":")[2])))
    project.environment |= {**servers.environment, "AWS_ENDPOINT_URL": bucket.url}
    remote = f"{BUCKET}/{project.folder.name}"
    project.run("dvc", "remote", "add", "-q", "-d", "storage", f"s3://{remote}")
    one = sorted((project.folder / ".dvc" / "cache" / "files" / "md5").glob("*/*"))[100]
    bucket.on_request[f"PUT /{remote}/files/md5/{one.parent.name}/{one.name} ".encode()] = bucket.cut_off

    failed = subprocess.run(
        ["dvc", "push"], cwd=project.folder, env=project.environment, capture_output=True, text=True, check=False
    )
    assert not bucket.on_request, "the push came to the file"
    assert failed.returncode, failed.stderr
    assert bucket.url in failed.stderr
    bucket.restore()
    project.run("dvc", "push", "-q")
    assert "in sync" in project.run("dvc", "status", "-c")
