import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.provenance import lineage
from pipeline.provenance.lineage import ProcessId

Git = Callable[..., str]


@pytest.fixture
def git(workspace: Path) -> Git:
    """A repository in the working folder, with one commit."""

    def run(*arguments: str, cwd: Path = workspace) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True, text=True
        ).stdout.strip()

    run("init", "--initial-branch", "main")
    (workspace / "params.yaml").write_text("train: 1\n")
    (workspace / "picture.bin").write_bytes(bytes(range(256)))
    (workspace / ".gitignore").write_text("/data/\n")
    run("add", ".")
    run("commit", "--message", "first")
    return run


def test_outside_of_git_the_working_folder_is_the_main_worktree(workspace: Path) -> None:
    assert lineage.main_worktree() == workspace


def test_in_a_linked_worktree_the_main_one_is_found(git: Git, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linked = workspace.parent / f"{workspace.name}-linked"
    git("worktree", "add", str(linked))
    monkeypatch.chdir(linked)
    assert lineage.main_worktree() == workspace


def test_in_a_temporary_experiment_the_main_worktree_is_found(
    git: Git, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = workspace / ".dvc" / "tmp" / "exps" / "tmp123"
    temporary.mkdir(parents=True)
    # DVC makes a repository of its own there.
    git("init", cwd=temporary)
    monkeypatch.chdir(temporary)
    assert lineage.main_worktree() == workspace


@pytest.mark.usefixtures("git")
def test_dvc_root_goes_before_the_working_folder(
    workspace: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(workspace))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert lineage.main_worktree() == workspace


@pytest.mark.usefixtures("git")
def test_a_clean_tree_differs_by_nothing() -> None:
    assert lineage.uncommitted() == ""


def test_the_patch_makes_the_working_tree_of_the_commit(
    git: Git, workspace: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (workspace / "params.yaml").write_text("train: 2\n")
    (workspace / "picture.bin").write_bytes(bytes(reversed(range(256))))
    (workspace / "new module.py").write_text("x = 'é'\n")
    (workspace / ".gitignore").unlink()
    clone = tmp_path_factory.mktemp("clone")
    git("clone", str(workspace), str(clone))
    (clone / "the.patch").write_text(lineage.uncommitted(), errors="surrogateescape")
    git("apply", "the.patch", cwd=clone)
    for name in ("params.yaml", "picture.bin", "new module.py"):
        assert (clone / name).read_bytes() == (workspace / name).read_bytes()
    assert not (clone / ".gitignore").exists()


def test_a_change_that_keeps_size_and_time_is_seen(git: Git, workspace: Path) -> None:
    """DVC leaves experiments an index that takes such a file for the committed one."""
    path = workspace / "params.yaml"
    os.utime(path, (1, 1))
    git("update-index", "--refresh")
    path.write_text("train: 2\n")
    os.utime(path, (1, 1))
    git("config", "core.trustctime", "false")
    assert git("status", "--porcelain") == "", "git itself is fooled"
    assert "+train: 2" in lineage.uncommitted()


def test_a_new_file_is_seen_whether_or_not_it_is_staged(git: Git, workspace: Path) -> None:
    (workspace / "staged.py").write_text("x = 1\n")
    git("add", "staged.py")
    (workspace / "new.py").write_text("y = 2\n")
    patch = lineage.uncommitted()
    assert "+x = 1" in patch
    assert "+y = 2" in patch


def test_looking_for_changes_leaves_the_index_alone(git: Git, workspace: Path) -> None:
    (workspace / "new.py").write_text("x = 1\n")
    before = git("status", "--porcelain")
    lineage.uncommitted()
    assert git("status", "--porcelain") == before == "?? new.py"


def test_what_dvc_writes_is_no_change(git: Git, workspace: Path) -> None:
    (workspace / "metrics.json").write_text("{}")
    git("add", ".")
    git("commit", "--message", "metrics")
    (workspace / "dvc.lock").write_text("stages: {evaluate: {outs: [{path: metrics.json}, {path: grids}]}}")
    (workspace / "metrics.json").write_text('{"kid": 1}')
    (workspace / "grids").mkdir()
    (workspace / "grids" / "0.png").write_bytes(b"png")
    assert lineage.uncommitted() == ""


@pytest.mark.usefixtures("git")
def test_large_new_files_are_named_in_the_patch_only(workspace: Path) -> None:
    (workspace / "huge.bin").write_bytes(bytes(11 << 20))
    patch = lineage.uncommitted()
    assert "huge.bin" in patch
    assert len(patch) < 1000


def test_a_repository_without_a_commit_has_no_commit(workspace: Path) -> None:
    subprocess.run(["git", "init"], cwd=workspace, check=True, capture_output=True)
    assert "git.commit" not in lineage.facts()
    assert lineage.short_commit() is None


def test_facts_name_commit_branch_lock_and_data(git: Git, workspace: Path) -> None:
    (workspace / "dvc.lock").write_text("stages: {}\n")
    (workspace / "data").mkdir()
    (workspace / "data" / "raw.dvc").write_text("outs:\n- md5: abc.dir\n  path: raw\n")
    facts = lineage.facts()
    assert facts["git.commit"] == facts["mlflow.source.git.commit"] == git("rev-parse", "HEAD")
    assert facts["git.branch"] == "main"
    # printf 'stages: {}\\n' | md5sum
    assert facts["dvc.lock.md5"] == "9fe2e7804e9a606f4da28234f40e9246"
    assert facts["data.md5"] == "abc.dir"
    assert facts["version.torch"].startswith("2.")


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize("text", ["<<<<<<< ours", "[]", "\0"])
def test_a_damaged_file_is_a_fact_left_out(text: str) -> None:
    for name in ("dvc.lock", "params.yaml", "data/raw.dvc", "data/prepared/dataset.json"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    assert "data.md5" not in lineage.facts()
    assert lineage.data_digest() is None
    assert lineage.all_params() == {}


def test_a_living_process_is_alive_and_an_ended_one_is_not() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with process:
        other = ProcessId.of(lineage.psutil.Process(process.pid))
        assert other.is_alive()
        assert ProcessId.parse(str(other)).is_same(other)
        process.kill()
    assert not other.is_alive()
    assert ProcessId.current().is_alive()


def test_a_later_process_with_the_same_number_is_another() -> None:
    here = ProcessId.current()
    assert not ProcessId(here.pid, here.created - 100).is_alive()


def test_stages_of_one_dvc_process_share_their_parent_run_and_two_processes_do_not(workspace: Path, root: Path) -> None:
    """A script called dvc runs stages in a shell, as DVC does; a stage that finds no parent opens one."""
    (workspace / "stage.py").write_text(
        "import sys, uuid\nfrom pipeline.tracking import parent_run\n"
        "run = parent_run.parent_run() or uuid.uuid4().hex\nparent_run.remember(run)\nprint(run)\n"
    )
    (workspace / "dvc").write_text(
        "import subprocess, sys\n"
        "for _ in range(2):\n    subprocess.run(f'{sys.executable} stage.py; true', shell=True, check=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(root)}
    first, second = (
        subprocess.run(
            [sys.executable, "dvc"], cwd=workspace, check=True, capture_output=True, text=True, env=environment
        ).stdout.split()
        for _ in range(2)
    )
    assert first[0] == first[1]
    assert second[0] == second[1]
    assert first[0] != second[0]
    assert len(list((workspace / ".foundry" / "pipelines").iterdir())) == 1, "the ended process is forgotten"


@pytest.mark.usefixtures("workspace")
def test_a_stage_outside_of_dvc_has_no_common_parent() -> None:
    from pipeline.tracking import parent_run

    parent_run.remember("run")
    assert parent_run.parent_run() is None
