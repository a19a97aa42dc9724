"""New images with a table of metadata find a place beside those that have one, and everything keeps its class."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.adoption.addition import taken
from pipeline.adoption.arrangement import arrange
from pipeline.errors import FoundryError
from tests.adoption.test_addition import content_of, write
from tests.ingestion.sources.reading import labels, read

Files = dict[str, str]
Added = Callable[[Files, Files], tuple[list[str], Files, dict[str, object]]]
OLD = {"1.png": "one", "2.png": "two", "metadata.csv": "file_name,label\n1.png,cat\n2.png,dog\n"}


@pytest.fixture
def added(tmp_path: Path) -> Added:
    """Adds `new` to `old`, by path and content, and to what was added before; returns what is said, all files, and classes."""

    def added(old: Files, new: Files) -> tuple[list[str], Files, dict[str, object]]:
        raw, folder = tmp_path / "raw", tmp_path / "new"
        shutil.rmtree(folder, ignore_errors=True)
        write(raw, old)
        write(folder, new)
        said = [line.replace(str(tmp_path), "") for line in arrange(folder, raw, "more")]
        assert not taken(folder, raw)
        write(raw, content_of(folder))
        return said, content_of(raw), dict(labels(read(raw, "images")))

    return added


def test_rows_of_both_tables_are_in_one_where_their_columns_agree(added: Added) -> None:
    said, files, classes = added(OLD, {"3.png": "three", "metadata.csv": "file_name,label\n3.png,cat\n"})
    assert said == ["/raw/metadata.csv: has the rows of the new table too"]
    assert files == {**OLD, "3.png": "three", "metadata.csv": f"{OLD['metadata.csv']}3.png,cat\n"}
    assert classes == {"1.png": "cat", "2.png": "dog", "3.png": "cat"}


def test_a_set_that_has_grown_is_added_again(added: Added) -> None:
    grown = {**OLD, "3.png": "three", "metadata.csv": f"{OLD['metadata.csv']}3.png,cat\n"}
    assert added(OLD, grown)[1] == grown
    assert added({}, grown) == ([], grown, {"1.png": "cat", "2.png": "dog", "3.png": "cat"})


def test_images_whose_names_are_taken_stand_with_their_table_in_a_folder_of_their_own(added: Added) -> None:
    new = {"1.png": "other", "deep/1.png": "deep", "metadata.csv": "file_name,label\n1.png,fox\ndeep/1.png,cat\n"}
    said, files, classes = added(OLD, new)
    assert said == ["/raw has other files of the same names: the new ones are in /raw/more"]
    assert files == OLD | {f"more/{name}": content for name, content in new.items()}
    wanted = {"1.png": "cat", "2.png": "dog", "more/1.png": "fox", "more/deep/1.png": "cat"}
    assert classes == wanted
    assert added({}, new)[1:] == (files, wanted)
    other = {**new, "1.png": "yet another"}
    assert added({}, other)[2] == wanted | {"more-2/1.png": "fox", "more-2/deep/1.png": "cat"}


def test_tables_with_other_columns_stay_apart(added: Added) -> None:
    new = {"3.png": "three", "metadata.csv": "file_name,class,text\n3.png,cat,a cat\n"}
    _, files, classes = added(OLD, new)
    assert files == OLD | {f"more/{name}": content for name, content in new.items()}
    assert classes == {"1.png": "cat", "2.png": "dog", "more/3.png": "cat"}


def test_images_in_splits_stay_in_their_splits(added: Added) -> None:
    table = "file_name,label\n1.png,cat\n"
    old = {
        f"{split}/{name}": content
        for split in ("train", "test")
        for name, content in {"1.png": split, "metadata.csv": table}.items()
    }
    new = {f"train/{name}": content for name, content in {"1.png": "new", "metadata.csv": table}.items()}
    said, files, classes = added(old, new)
    assert said == ["/raw/train has other files of the same names: the new ones are in /raw/train/more"]
    assert files == old | {"train/more/1.png": "new", "train/more/metadata.csv": table}
    assert set(classes.values()) == {"cat"}


def test_captions_of_images_in_class_folders_become_one_table(added: Added) -> None:
    old = {"cat/1.png": "one", "dog/2.png": "two", "metadata.csv": "file_name,text\ncat/1.png,a cat\n"}
    new = {"cat/3.png": "three", "metadata.csv": "file_name,text\ncat/3.png,a cat\n"}
    _, files, classes = added(old, new)
    assert files["metadata.csv"] == f"{old['metadata.csv']}cat/3.png,a cat\n"
    assert classes == {"cat/1.png": "cat", "dog/2.png": "dog", "cat/3.png": "cat"}


def test_an_image_with_two_classes_is_named(added: Added) -> None:
    with pytest.raises(
        FoundryError, match=r"metadata\.csv: 1\.png is label cat in the old table and label dog in the new"
    ):
        added(OLD, {"1.png": "one", "metadata.csv": "file_name,label\n1.png,dog\n"})
