from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks.systems import ARMS, Ground, Ours, ground_of
from pipeline.artefacts.dataset import Dataset
from tests.small_sets import PARAMS, write_prepared


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), np.uint8)
    write_prepared(tmp_path / "data" / "prepared", images, np.arange(60) % 3, num_held_out=20)
    (tmp_path / "scratch").mkdir()
    return Ground(tmp_path / "data", tmp_path / "scratch", PARAMS)


def test_the_images_without_classes_are_the_same_images(ground: Ground) -> None:
    found = Dataset.open(ground.without_labels)
    assert found.info.class_names is None
    for split in ("train", "held_out"):
        assert found.split(split).labels is None
        assert np.array_equal(found.split(split).images(slice(None)), ground.prepared.split(split).images(slice(None)))


def test_pictures_hold_the_training_images_and_what_was_left_unfinished_is_made_again(ground: Ground) -> None:
    (ground.scratch / "pictures.unfinished").mkdir()
    (ground.scratch / "pictures.unfinished" / "000000.png").write_bytes(b"half")
    files = sorted(ground.pictures.iterdir())
    assert len(files) == 40
    assert np.array_equal(
        np.asarray(Image.open(files[7])), ground.prepared.split("train").images(np.array([7]))[0, ..., 0]
    )


def test_arms_are_named_once_and_ours_is_what_others_are_told_beside() -> None:
    assert all(name == arm.name for name, arm in ARMS.items())
    assert len({arm.title for arm in ARMS.values()}) == len(ARMS)
    assert isinstance(ARMS["ours"], Ours)


def test_what_is_compared_has_the_projects_params(tmp_path: Path) -> None:
    assert ground_of(tmp_path, tmp_path).params == PARAMS


def test_every_training_has_its_memory_as_the_stage_has_it(ground: Ground, root: Path) -> None:
    variables = yaml.safe_load((root / "dvc.yaml").read_text())["vars"]
    assert {"huge_pages": f"GLIBC_TUNABLES={ground.environment['GLIBC_TUNABLES']}"} in variables
