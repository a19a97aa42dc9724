"""Whenever an adoption is killed, the next command finds all of the old or all of the new, and nothing is lost."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.adoption.replacement import DECIDED, PLACE, RAW, UNDECIDED, replacing_images, settle

State = dict[str, object]
Settled = Callable[[Path], tuple[str | None, State]]
OLD: State = {
    "raw": {"old.png": "old"},
    "raw.dvc": "old record",
    "params.yaml": "old params",
    "excluded.txt": "old list",
}
NEW: State = {
    "raw": {"new.png": "new"},
    "raw.dvc": "new record",
    "params.yaml": "new params",
    "excluded.txt": "new list",
}
FIRST: State = {"raw": None, "raw.dvc": None, "params.yaml": "old params", "excluded.txt": None}
"""Before the first adoption of a project."""


def write_project(folder: Path, before: State) -> Path:
    files = {
        "data/raw/old.png": before["raw"] and "old",
        "data/raw.dvc": before["raw.dvc"],
        "params.yaml": before["params.yaml"],
        "data/excluded.txt": before["excluded.txt"],
        PLACE / "raw/new.png": "new",
    }
    (folder / "data").mkdir(parents=True)
    for name, content in files.items():
        if content is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(str(content))
    return folder


def kills(action: str, project: Path, copies: Path, root: Path) -> list[Path]:
    """What a kill at each moment of an action would leave of `project`, in their order, and last what the whole action leaves."""
    copies.mkdir()
    command = [sys.executable, "-m", "tests.adoption.kills", action, str(copies)]
    subprocess.run(command, cwd=project, env=os.environ | {"PYTHONPATH": str(root)}, check=True)
    return [*sorted(copies.iterdir()), project]


@pytest.fixture(scope="module")
def replaced(tmp_path_factory: pytest.TempPathFactory, root: Path) -> list[Path]:
    """What the kills of an adoption leave; to be copied, not changed."""
    place = tmp_path_factory.mktemp("replaced")
    return kills("replace", write_project(place / "project", OLD), place / "copies", root)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> Settled:
    """Settles what a kill has left in a folder; returns what that says, and what the user finds then."""

    def settled(folder: Path) -> tuple[str | None, State]:
        monkeypatch.chdir(folder)
        said = settle()
        assert settle() is None
        assert not UNDECIDED.exists()
        assert not DECIDED.exists()
        images = {path.name: path.read_text() for path in RAW.iterdir()} if RAW.exists() else {}
        files = (Path("data/raw.dvc"), Path("params.yaml"), Path("data/excluded.txt"))
        return said, {
            "raw": images or None,
            **{path.name: path.read_text() if path.exists() else None for path in files},
        }

    return settled


@pytest.mark.parametrize("before", [OLD, FIRST], ids=["replaced", "first"])
def test_a_kill_leaves_all_of_the_old_or_all_of_the_new(
    before: State, tmp_path: Path, root: Path, settled: Settled
) -> None:
    left = kills("replace", write_project(tmp_path / "project", before), tmp_path / "copies", root)
    placed = [(folder / RAW / "new.png").exists() and (folder / UNDECIDED).exists() for folder in left]
    results = [settled(folder) for folder in left]
    states = [state for _, state in results]
    num_old = states.index(NEW)
    assert states == [before] * num_old + [NEW] * (len(left) - num_old)
    assert any(placed[:num_old])
    for folder, was_placed, (said, state) in zip(left, placed, results, strict=True):
        kept = folder / PLACE / "unfinished-1" / "new.png"
        assert kept.exists() == was_placed
        if was_placed:
            assert said is not None
            assert said.endswith("is in .foundry/adoption/unfinished-1: delete it, unless you have changed it since")
        if state == NEW:
            assert (folder / PLACE / "params.yaml").read_text() == "old params"
    words = list(dict.fromkeys(said and said.partition(" DVC")[0] for said, _ in results))
    assert words == [None, "an earlier adoption was cut short before", "an earlier adoption was cut short after"]


def test_settling_may_be_killed_too(replaced: list[Path], tmp_path: Path, root: Path, settled: Settled) -> None:
    undecided = next(folder for folder in reversed(replaced) if (folder / UNDECIDED).exists())
    decided = next(folder for folder in replaced if (folder / DECIDED).exists())
    for folder, state in ((undecided, OLD), (decided, NEW)):
        left = Path(shutil.copytree(folder, tmp_path / folder.name))
        for again in kills("settle", left, tmp_path / f"{folder.name} again", root):
            assert settled(again)[1] == state
            kept = [*(again / PLACE).glob("unfinished-*/new.png"), again / RAW / "new.png"]
            assert kept[0].exists()


def test_what_fails_leaves_the_old_and_the_images_where_they_came_from(
    tmp_path: Path, root: Path, settled: Settled
) -> None:
    left = kills("fail", write_project(tmp_path / "project", OLD), tmp_path / "copies", root)
    assert [settled(folder)[1] for folder in left] == [OLD] * len(left)
    assert (tmp_path / "project" / PLACE / "raw" / "new.png").exists()


def test_images_that_came_to_data_raw_since_the_kill_are_kept(
    replaced: list[Path], tmp_path: Path, settled: Settled
) -> None:
    between = next(folder for folder in replaced if not (folder / RAW).exists())
    folder = Path(shutil.copytree(between, tmp_path / "project"))
    (folder / RAW).mkdir()
    (folder / RAW / "mine.png").write_text("mine")
    said, state = settled(folder)
    assert state == OLD
    assert said is not None
    assert "what it had put into data/raw is in .foundry/adoption/unfinished-1" in said
    assert (folder / PLACE / "unfinished-1" / "mine.png").read_text() == "mine"


def test_what_is_not_settled_is_never_overwritten(
    replaced: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    between = next(folder for folder in replaced if not (folder / RAW).exists())
    folder = Path(shutil.copytree(between, tmp_path / "project"))
    monkeypatch.chdir(folder)
    shutil.copytree(PLACE / "raw", "more")
    with pytest.raises(FileExistsError), replacing_images(Path("more")):
        pass
    assert (UNDECIDED / "raw" / "old.png").read_text() == "old"
