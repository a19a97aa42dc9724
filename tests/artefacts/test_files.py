from __future__ import annotations

import math
from pathlib import Path

import pytest

from pipeline.artefacts.files import UnwritableError, read_document, remove_outputs, replacing, write_json
from pipeline.errors import ArtefactError


def fail_halfway(path: Path) -> None:
    with replacing(path) as partial:
        partial.write_text("half of the ne")
        raise RuntimeError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        fail_halfway(path)
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["out.txt"]


def test_json_has_sorted_keys_an_indent_of_two_and_a_final_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": "ä", "a": [1]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "a": [\n    1\n  ],\n  "b": "ä"\n}\n'


def test_numbers_that_json_does_not_have_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": math.nan})
    assert not list(tmp_path.iterdir())


def test_removing_outputs_keeps_other_files_and_removes_what_a_killed_write_left(tmp_path: Path) -> None:
    out = tmp_path / "new/out"
    remove_outputs(out, ("table.csv", "train"))
    assert list(out.iterdir()) == []
    (out / "train").mkdir()
    for name in ("table.csv", "train/images.npy", ".table.csv.123.tmp", "notes.txt"):
        (out / name).touch()
    remove_outputs(out, ("table.csv", "train"))
    assert [path.name for path in out.iterdir()] == ["notes.txt"]


def test_outputs_that_cannot_be_removed_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnwritableError, match="file/out: cannot be written: Not a directory"):
        remove_outputs(tmp_path / "file/out", ("table.csv",))


@pytest.mark.parametrize(("content", "message"), [
    (None, r"a\.json: not found; run the stage `prepare`"),
    (b"{", r"a\.json: not JSON"),
    (b"\xff", r"a\.json: not JSON"),
    (b"[1]", r"a\.json: wanted a JSON object \(got list\)"),
])  # fmt: skip
def test_a_document_that_is_missing_or_no_object_is_rejected(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ArtefactError, match=message):
        read_document(tmp_path / "a.json", stage="prepare")
