"""`foundry adopt`: the table, and what it does to the project."""

import hashlib
import os
import re
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.adoption.change import changing_images
from pipeline.adoption.intake import take_in
from pipeline.adoption.replacement import PLACE
from pipeline.commands.adopt import adopt, incoming, looked_at, require_replaceable
from pipeline.errors import FoundryError
from pipeline.ingestion.exclusions import read_exclusions
from pipeline.params import load_params
from pipeline.provenance.dvc import require_no_dvc
from tests.adoption.test_plan import photographs, planned
from tests.command_line import foundry
from tests.dvc_project import Project
from tests.processes import start, wait_for
from tests.project import check_out

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]


@pytest.fixture
def digits_file(tmp_path_factory: pytest.TempPathFactory, digits: Digits) -> Path:
    path = tmp_path_factory.mktemp("source") / "digits.npz"
    np.savez(path, images=digits[0], labels=digits[1])
    return path


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def running(folder: Path) -> bool:
    """Whether DVC is at work in a folder."""
    try:
        require_no_dvc(folder)
    except FoundryError:
        return True
    return False


def test_a_plan_is_a_table_with_a_reason_for_each_param_and_changes_nothing(
    workspace: Path, root: Path, digits_file: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(root))
    shutil.copy(root / "tests" / "params.yaml", workspace)
    before = _digests(workspace) | {".foundry/raw.lock": hashlib.sha256(str(os.getpid()).encode()).hexdigest()}
    foundry("adopt", "--plan", digits_file)
    table = capfd.readouterr().out
    assert "digits: 1,797 of 1,797 images can be used, read as `arrays`" in table
    for row in (
        'prepare.source               "arrays"',
        "prepare.image_size           8 ",
        "train.horizontal_flip        false",
    ):
        assert row in table
    assert "minutes here: survey 0.0, prepare 0.1" in table
    assert max(map(len, table.splitlines())) <= 120
    assert _digests(workspace) == before


def test_images_that_dvc_does_not_have_are_never_replaced(workspace: Path, root: Path, digits_file: Path) -> None:
    shutil.copy(root / "tests" / "params.yaml", workspace)
    (workspace / "data" / "raw").mkdir(parents=True)
    (workspace / "data" / "raw" / "only-copy.png").write_bytes(b"precious")
    with pytest.raises(FoundryError, match=r"data/raw: holds images that data/raw.dvc does not record"):
        foundry("adopt", digits_file)
    assert (workspace / "data" / "raw" / "only-copy.png").read_bytes() == b"precious"


def test_an_adoption_that_was_killed_while_dvc_recorded_its_images_is_undone_by_the_next(
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project = Project(tmp_path / "project", "no store")
    monkeypatch.chdir(project.folder)
    project.write("params.yaml", (root / "tests" / "params.yaml").read_text())
    project.write("data/raw/old.png", "old")
    project.dvc("add", "-q", "data/raw")
    project.write(".foundry/adoption/raw/new.png", "new")
    before = _digests(Path("data"))
    adoption = start([sys.executable, "-m", "tests.adoption.kills", "replace_with_dvc"], env=project.environment)
    wait_for(lambda: running(project.folder), adoption)
    adoption.kill()
    adoption.wait()
    # DVC does not end with the process that started it.
    with pytest.raises(FoundryError, match=r"DVC is at work \(process \d+\): wait until it ends"):
        foundry("adopt", "nowhere")
    while running(project.folder):
        time.sleep(0.05)
    with pytest.raises(FoundryError, match="^nowhere: not found"):
        foundry("adopt", "nowhere")
    assert capsys.readouterr().out == (
        "an earlier adoption was cut short before DVC had its images: data/raw, data/raw.dvc and params.yaml are what "
        "they were before it; what it had put into data/raw is in .foundry/adoption/unfinished-1: delete it, unless "
        "you have changed it since\n"
    )
    assert _digests(Path("data")) == before
    assert Path(".foundry/adoption/unfinished-1/new.png").read_text() == "new"


def test_of_two_changes_of_data_raw_at_once_the_second_is_refused(workspace: Path, root: Path) -> None:
    shutil.copy(root / "tests" / "params.yaml", workspace)
    with changing_images(), pytest.raises(FoundryError, match="another change of data/raw is running already"):
        foundry("adopt", "nowhere")


def test_images_and_params_take_their_places_and_what_was_there_stays_in_dvc(
    tmp_path: Path, root: Path, digits_file: Path, raced_store: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(tmp_path / "project", raced_store[0])
    monkeypatch.chdir(project.folder)
    project.write("params.yaml", (root / "tests" / "params.yaml").read_text())
    project.write("data/excluded.txt", "digits.npz#1\n")
    plan = planned(photographs())
    adopt(take_in(str(digits_file), PLACE / "raw"), plan, {"digits.npz#1"})
    assert load_params(Path("params.yaml")) == plan.params
    assert read_exclusions(Path("data/excluded.txt")) == {"digits.npz#1"}
    assert not list(PLACE.glob("raw*"))
    project.commit("Digits")

    (tmp_path / "birds.zip").write_bytes(b"archive")
    adopt(take_in(str(tmp_path / "birds.zip"), PLACE / "raw"), plan, ())
    assert [path.name for path in Path("data/raw").iterdir()] == ["birds.zip"]
    assert read_exclusions(Path("data/excluded.txt")) == frozenset()
    require_replaceable("elsewhere")

    project.run("git", "checkout", "-q", "--", "data/raw.dvc")
    project.dvc("checkout", "-q", "-f", "data/raw.dvc")
    assert Path("data/raw/digits.npz").read_bytes() == digits_file.read_bytes()


@pytest.mark.long
@pytest.mark.trains
@pytest.mark.timeout(900)
def test_images_become_a_registered_model(tmp_path: Path, digits_file: Path) -> None:
    project = check_out(tmp_path / "project")
    project.run("git", "init", "-q", "-b", "main")
    project.commit("A clone")
    said = project.run("foundry", "adopt", "--minutes", "2", str(digits_file))
    assert re.search(r"^registered: digits version 1 .*; decision: (accept|undecided)$", said, re.MULTILINE)
    params = load_params(project.folder / "params.yaml")
    assert (params.register_.model_name, params.prepare.source, params.prepare.image_size) == ("digits", "arrays", 8)


def test_an_error_names_the_file_that_was_given_and_not_its_copy(tmp_path: Path) -> None:
    source = str(tmp_path / "set.npz")
    np.savez(source, images=np.zeros((4, 3, 8, 8), np.uint8))
    with pytest.raises(FoundryError, match=f"^{re.escape(source)}: images are uint8 "):
        looked_at(source, take_in(source, tmp_path / "copy"), ())


@pytest.mark.parametrize("images", [["old.png"], []])
def test_where_dvc_refuses_the_images_everything_is_as_it_was(
    images: list[str],
    workspace: Path,
    root: Path,
    digits_file: Path,
) -> None:
    # No repository, in which `dvc add` could do its work.
    shutil.copy(root / "tests" / "params.yaml", workspace)
    (workspace / "data/raw").mkdir(parents=True)
    for name in images:
        (workspace / "data/raw" / name).write_bytes(b"precious")
    (workspace / "data/raw.dvc").write_text("outs: []\n")
    (workspace / "data/excluded.txt").write_text("old.png\n")
    before = _digests(workspace)
    with pytest.raises(FoundryError, match="dvc add"), incoming(str(digits_file)) as intake:
        adopt(intake, planned(photographs()), ())
    assert _digests(workspace) == before


@pytest.mark.parametrize("name", ["A B", "e\N{COMBINING ACUTE ACCENT}", "-x", "x" * 64, "x\n"])
def test_a_name_that_no_model_can_have_is_refused_before_the_images_are_read(
    name: str, workspace: Path, root: Path
) -> None:
    shutil.copy(root / "tests" / "params.yaml", workspace)
    with pytest.raises(FoundryError, match="^--name: should be lower-case letters, digits and hyphens, at most 63"):
        foundry("adopt", "--plan", "nowhere", "--name", name)
