import os
import subprocess
from pathlib import Path

import pytest

from pipeline.provenance import lineage
from pipeline.provenance.git import short_commit
from tests.provenance.conftest import Git


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
    """The index that DVC leaves in an experiment's folder has such a file as unchanged."""
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


def test_making_the_patch_leaves_the_index_alone(git: Git, workspace: Path) -> None:
    (workspace / "new.py").write_text("x = 1\n")
    before = git("status", "--porcelain")
    lineage.uncommitted()
    assert git("status", "--porcelain") == before == "?? new.py"


def test_files_that_dvc_writes_are_not_in_the_patch(git: Git, workspace: Path) -> None:
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
    assert short_commit() is None


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
def test_the_facts_of_a_damaged_file_are_omitted(text: str) -> None:
    for name in ("dvc.lock", "params.yaml", "data/raw.dvc", "data/prepared/dataset.json"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    assert "data.md5" not in lineage.facts()
    assert lineage.data_digest() is None
    assert lineage.all_params() == {}
