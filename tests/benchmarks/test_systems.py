from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks.systems import ARMS, OurArm, Workspace, read_workspace
from pipeline.artefacts.dataset import Dataset
from pipeline.params import load_params
from tests.small_sets import PARAMS, write_prepared


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), np.uint8)
    write_prepared(tmp_path / "data" / "prepared", images, np.arange(60) % 3, num_held_out=20)
    (tmp_path / "scratch").mkdir()
    return Workspace(tmp_path / "data", tmp_path / "scratch", PARAMS)


def test_the_unlabelled_dataset_has_the_same_images(workspace: Workspace) -> None:
    unlabelled = Dataset.open(workspace.unlabelled_dataset)
    assert unlabelled.info.class_names is None
    for split in ("train", "held_out"):
        assert unlabelled.split(split).labels is None
        assert np.array_equal(
            unlabelled.split(split).images(slice(None)), workspace.dataset.split(split).images(slice(None))
        )


def test_the_png_folder_has_the_training_images_and_replaces_an_unfinished_one(workspace: Workspace) -> None:
    (workspace.scratch / "pictures.unfinished").mkdir()
    (workspace.scratch / "pictures.unfinished" / "000000.png").write_bytes(b"half")
    files = sorted(workspace.png_folder.iterdir())
    assert len(files) == 40
    assert np.array_equal(
        np.asarray(Image.open(files[7])), workspace.dataset.split("train").images(np.array([7]))[0, ..., 0]
    )


def test_arms_have_unique_names_and_titles_and_ours_is_one_of_them() -> None:
    assert all(name == arm.name for name, arm in ARMS.items())
    assert len({arm.title for arm in ARMS.values()}) == len(ARMS)
    assert isinstance(ARMS["ours"], OurArm)


def test_a_workspace_has_the_projects_params(tmp_path: Path, root: Path) -> None:
    assert read_workspace(tmp_path, tmp_path).params == load_params(root / "params.yaml")


def test_every_training_allocates_memory_as_the_stage_train_does(workspace: Workspace, root: Path) -> None:
    stage = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]["train"]
    assert "${huge_pages}" in stage["cmd"]
    assert "glibc.malloc.hugetlb=1" in workspace.environment["GLIBC_TUNABLES"].split(":")
