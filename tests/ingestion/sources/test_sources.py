"""Errors that all kinds of sources have in common."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import FoundryError
from tests.ingestion.sources.reading import read, write


@pytest.mark.parametrize("kind", ["idx", "images", "archive", "arrays"])
def test_a_missing_folder_is_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(FoundryError, match=rf"raw: not a folder, wanted one with raw data of the kind `{kind}`"):
        read(tmp_path / "raw", kind)


@pytest.mark.parametrize("kind", ["images", "archive"])
def test_a_folder_without_files_is_rejected(tmp_path: Path, kind: str) -> None:
    write(tmp_path / ".gitignore")
    with pytest.raises(FoundryError, match="found no"):
        read(tmp_path, kind)
