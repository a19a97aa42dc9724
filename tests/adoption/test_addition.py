"""An addition that is killed is finished by the next command."""

from pathlib import Path

import pytest

from pipeline.adoption.addition import PLACE, WAITING, add_files, merge_tables, settle, taken
from pipeline.errors import FoundryError
from tests.adoption.test_replacement import kills
from tests.dvc_project import Project

NEW = {"cat/1.png": "one", "cat/2.png": "two", "dog/3.png": "three"}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def content_of(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    (tmp_path / "project").mkdir()
    made = Project(tmp_path / "project", "no store")
    monkeypatch.chdir(made.folder)
    write(Path("data/raw"), {"cat/0.png": "zero"})
    write(PLACE / "new", NEW)
    return made


def test_a_kill_at_any_moment_loses_no_file_and_adds_all_or_none(project: Project, tmp_path: Path, root: Path) -> None:
    left = kills("add_with_dvc", project.folder, tmp_path / "copies", root)
    begun = [folder for folder in left if (folder / WAITING).exists()]
    assert len(begun) > len(NEW)
    for folder in left:
        images = content_of(folder / "data/raw")
        moved = images.keys() - {"cat/0.png"}
        assert images.items() <= {"cat/0.png": "zero", **NEW}.items()
        if folder in begun:
            assert content_of(folder / WAITING).keys() == NEW.keys() - moved
        else:
            assert moved in (set(), NEW.keys())


def test_a_killed_addition_is_finished_and_recorded(project: Project, tmp_path: Path, root: Path) -> None:
    left = kills("add_with_dvc", project.folder, tmp_path / "copies", root)
    halfway = next(folder for folder in left if (folder / "data/raw/cat/1.png").exists())
    for name in ("data", ".foundry"):
        project.run("rm", "-rf", name)
        project.run("cp", "-r", str(halfway / name), name)
    assert settle() == (
        "an earlier addition to data/raw was cut short: its last 2 files are added now, and DVC has recorded them"
    )
    assert content_of(Path("data/raw")) == {"cat/0.png": "zero", **NEW}
    assert "nfiles: 4" in Path("data/raw.dvc").read_text()
    assert not PLACE.exists()
    assert settle() is None


def test_a_file_that_changed_since_the_kill_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(WAITING, NEW)
    (PLACE / "target.txt").write_text("data/raw")
    write(Path("data/raw"), {"cat/1.png": "mine"})
    with pytest.raises(FoundryError, match=r"cut short, and cat/1\.png \(1 in all\) changed since: delete either"):
        settle()
    assert content_of(Path("data/raw")) == {"cat/1.png": "mine"}
    assert content_of(WAITING) == NEW


def test_files_with_other_content_are_taken_and_tables_are_not(tmp_path: Path) -> None:
    write(tmp_path / "raw", {"1.png": "one", "2.png": "two", "metadata.csv": "old"})
    write(tmp_path / "new", {"1.png": "one", "2.png": "other", "3.png": "three", "metadata.csv": "new"})
    assert taken(tmp_path / "new", tmp_path / "raw") == [Path("2.png")]
    with pytest.raises(FoundryError, match=r"holds other files of the names 2\.png \(1 in all\): rename them"):
        add_files(tmp_path / "new", tmp_path / "raw")


def test_a_file_in_the_place_of_a_folder_is_in_the_way(tmp_path: Path) -> None:
    write(tmp_path / "raw", {"cat": "a file", "dog/1.png": "one"})
    write(tmp_path / "new", {"cat/1.png": "one", "dog": "a file"})
    assert taken(tmp_path / "new", tmp_path / "raw") == [Path("cat/1.png"), Path("dog")]


def test_a_table_that_was_changed_since_the_kill_keeps_the_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(WAITING, {"metadata.csv": "file_name,label\n1.png,cat\n2.png,dog\n"})
    write(Path("data/raw"), {"metadata.csv": "file_name,label\n1.png,cat\n3.png,fox\n"})
    assert list(merge_tables(WAITING, Path("data/raw"))) == [Path("metadata.csv")]
    assert content_of(WAITING) == {"metadata.csv": "file_name,label\n1.png,cat\n3.png,fox\n2.png,dog\n"}
