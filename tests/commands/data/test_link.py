"""Shards in a folder, named by a URL, are linked in a real DVC repository."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tests.dvc_project import ROOT, Project
from tests.ingestion.test_shards import write_tar


@pytest.fixture
def project(tmp_path: Path, raced_store: tuple[Path, list[str]]) -> Project:
    (tmp_path / "project").mkdir()
    made = Project(tmp_path / "project", raced_store[0])
    document = yaml.safe_load((ROOT / "tests" / "params.yaml").read_text())
    made.write("params.yaml", yaml.safe_dump(document))
    made.write("data/.gitignore", "/raw\n")
    return made


def test_shards_are_listed_recorded_and_counted(project: Project, tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    for number in range(3):
        write_tar(tmp_path / "tars" / f"{number}.tar", range(10 * number, 10 * number + 10))
    url = (tmp_path / "tars").as_uri()
    assert "data/raw/shards.jsonl: 3 shards, 0.00 GiB: 3 new, 0 changed, 0 gone" in project.foundry("data", "link", url)
    before = (project.folder / "data/raw.dvc").read_text()
    (tmp_path / "tars" / "0.tar").unlink()
    write_tar(tmp_path / "tars" / "1.tar", range(20))
    write_tar(tmp_path / "tars" / "3.tar", range(10))
    said = project.foundry("data", "link", url)
    assert "data/raw/shards.jsonl: 3 shards, 0.00 GiB: 1 new, 1 changed, 1 gone" in said
    assert (project.folder / "data/raw.dvc").read_text() != before


def test_images_in_the_folder_are_not_replaced(project: Project, tmp_path: Path, photo_folder: Path) -> None:
    shutil.copytree(photo_folder, project.folder / "data/raw")
    with pytest.raises(AssertionError, match="data/raw: found china, flower, wanted an empty folder"):
        project.foundry("data", "link", tmp_path.as_uri())
