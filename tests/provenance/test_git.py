from pathlib import Path

import pytest

from pipeline.provenance.git import GitError, has_commit, main_worktree
from pipeline.provenance.git import git as run_git
from tests.provenance.conftest import Git


def test_outside_of_git_the_working_folder_is_the_main_worktree(workspace: Path) -> None:
    assert main_worktree() == workspace


def test_in_a_linked_worktree_the_main_one_is_found(git: Git, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linked = workspace.parent / f"{workspace.name}-linked"
    git("worktree", "add", str(linked))
    monkeypatch.chdir(linked)
    assert main_worktree() == workspace


def test_in_a_temporary_experiment_the_main_worktree_is_found(
    git: Git, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = workspace / ".dvc" / "tmp" / "exps" / "tmp123"
    temporary.mkdir(parents=True)
    # DVC makes a repository of its own there.
    git("init", cwd=temporary)
    monkeypatch.chdir(temporary)
    assert main_worktree() == workspace


@pytest.mark.usefixtures("git")
def test_dvc_root_goes_before_the_working_folder(
    workspace: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(workspace))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert main_worktree() == workspace


def test_an_error_names_the_folder_the_command_and_the_reason(git: Git, workspace: Path) -> None:
    head = git("rev-parse", "HEAD")
    assert has_commit(head)
    assert not has_commit("1" * 40)
    with pytest.raises(GitError, match=rf"{workspace}: git show no-such-commit: fatal: .*no-such-commit"):
        run_git("show", "no-such-commit")


def test_a_hook_runs_in_the_repository_of_its_folder(
    git: Git, workspace: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """git sets GIT_DIR for its hooks."""
    other = tmp_path_factory.mktemp("other")
    git("init", cwd=other)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert run_git("log", "--format=%s", folder=workspace) == "first\n"
