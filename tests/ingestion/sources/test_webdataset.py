"""Images in the tar files of a WebDataset."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.ingestion.sources.reading import labels, read, reasons


def shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


@pytest.mark.parametrize("kind", ["images", "archive"])
def test_shards_of_a_webdataset_are_read_with_their_classes(tmp_path: Path, kind: str) -> None:
    shard(tmp_path / "set-000.tar", {"a.png": b"1", "a.cls": b"7", "b.jpg": b"2", "b.cls": b"0", "b.txt": b"a cat"})
    shard(tmp_path / "set-001.tar", {"c.png": b"3", "c.json": json.dumps({"label": "7"}).encode(), "d.png": b"4"})
    images = read(tmp_path, kind)
    assert labels(images) == {"set-000.tar/a.png": "7", "set-000.tar/b.jpg": "0", "set-001.tar/c.png": "7"}
    assert reasons(images) == {"set-001.tar/d.png": "no class beside it (.cls, or label in .json)"}
    assert [image.content for image in images] == [b"1", b"2", b"3", b"4"]
