from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import FoundryError
from pipeline.ingestion.exclusions import read_exclusions, write_exclusions
from pipeline.params import PrepareParams
from pipeline.prepare import prepare
from tests.command_line import foundry

LIST = Path("data/excluded.txt")


@pytest.fixture
def prepared(photo_folder: Path, workspace: Path, prepare_params: Callable[..., PrepareParams]) -> Path:
    """Prepared photographs, of which one is a copy and one is broken."""
    shutil.copy(photo_folder / "china/01.png", photo_folder / "china/copy.png")
    (photo_folder / "flower/broken.png").write_bytes(b"")
    prepare(photo_folder, workspace / "data/prepared", prepare_params())
    return photo_folder


def test_files_are_listed_once_sorted_and_with_or_without_their_folder(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepared.exists()
    foundry("data", "exclude", "flower/01.png", "data/raw/china/00.jpg")
    foundry("data", "exclude", "flower/01.png")
    lines = LIST.read_text().splitlines()
    assert lines[0].startswith("#")
    assert lines[1:] == ["china/00.jpg", "flower/01.png"]
    assert "data/excluded.txt: 0 files more, 0 fewer, 2 in all" in capsys.readouterr().out


def test_files_are_taken_in_again(prepared: Path) -> None:
    assert prepared.exists()
    foundry("data", "exclude", "flower/01.png", "china/00.jpg")
    foundry("data", "exclude", "--undo", "flower/01.png")
    assert read_exclusions(LIST) == {"china/00.jpg"}


def test_near_duplicates_and_broken_files_are_excluded_at_once(prepared: Path) -> None:
    assert prepared.exists()
    foundry("data", "exclude", "--near-duplicates", "--quarantined")
    assert read_exclusions(LIST) >= {"china/copy.png", "flower/broken.png"}
    assert "china/01.png" not in read_exclusions(LIST)


def test_names_come_from_standard_input(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepared.exists()
    monkeypatch.setattr("sys.stdin", io.StringIO("china/00.jpg\n\nchina/02.jpg\n"))
    foundry("data", "exclude", "-")
    assert read_exclusions(LIST) == {"china/00.jpg", "china/02.jpg"}


def test_an_unknown_file_is_named_with_the_nearest_and_nothing_is_written(prepared: Path) -> None:
    assert prepared.exists()
    with pytest.raises(FoundryError, match=r"not in the manifest: 'china/00\.jpeg'; did you mean china/00\.jpg\?"):
        foundry("data", "exclude", "china/00.jpeg")
    with pytest.raises(FoundryError, match="no FILE"):
        foundry("data", "exclude")
    assert not LIST.exists()


def test_what_is_excluded_is_in_no_split_no_check_and_no_class(
    prepared: Path, workspace: Path, prepare_params: Callable[..., PrepareParams]
) -> None:
    flowers = {f"flower/{path.name}" for path in (prepared / "flower").iterdir()}
    out = workspace / "again"
    validation, dataset = prepare(prepared, out, prepare_params(max_broken_share=0), flowers | {"china/copy.png"})
    assert validation.success
    assert (validation.counts["excluded"], validation.counts["found"]) == (18, 34)
    assert dataset is not None
    assert dataset.class_names == ("china",)
    assert dataset.num_train + dataset.num_held_out == 16
    table = pd.read_parquet(out / "manifest.parquet").set_index("source")
    excluded = table[table["state"] == "excluded"]
    assert set(excluded.index) == flowers | {"china/copy.png"}
    assert excluded[["split", "index", "label", "duplicate_of", "near_duplicate_of"]].isna().all(axis=None)


def test_a_file_is_known_by_any_path_to_it(prepared: Path, workspace: Path) -> None:
    assert prepared.exists()
    foundry("data", "exclude", "./data/raw/china/00.jpg", workspace / "data/raw/../raw/flower/01.png")
    assert read_exclusions(LIST) == {"china/00.jpg", "flower/01.png"}


def test_a_folder_is_told_how_all_its_files_are_named(prepared: Path) -> None:
    assert prepared.exists()
    with pytest.raises(
        FoundryError, match=r"'data/raw/china/'; a folder of 17 files: `find data/raw/china -type f \| "
    ):
        foundry("data", "exclude", "data/raw/china/")
    assert not LIST.exists()


def test_a_file_that_is_no_longer_in_the_data_is_removed_from_the_list(prepared: Path) -> None:
    assert prepared.exists()
    write_exclusions(LIST, ["gone.png", "china/00.jpg"])
    with pytest.raises(FoundryError, match="not in the manifest"):
        foundry("data", "exclude", "gone.png")
    foundry("data", "exclude", "--undo", "gone.png")
    assert read_exclusions(LIST) == {"china/00.jpg"}


@given(names=st.frozensets(st.text(st.characters(exclude_categories=["Cs"]), min_size=1)))
def test_a_list_holds_files_of_any_name(names: frozenset[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "excluded.txt"
    write_exclusions(path, names)
    assert read_exclusions(path) == names


def test_a_line_that_looks_like_json_and_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "excluded.txt").write_text('# comment\na.png\n"b.png\n')
    with pytest.raises(FoundryError, match=r"excluded\.txt: line 3: .* wanted a JSON string"):
        read_exclusions(tmp_path / "excluded.txt")


def test_a_listed_file_that_the_data_do_not_have_is_named(
    prepared: Path, workspace: Path, prepare_params: Callable[..., PrepareParams], capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(prepared, workspace / "again", prepare_params(), {"chine/01.png"})
    assert "does not have chine/01.png, which should be left out" in capsys.readouterr().err
