from pathlib import Path

import numpy as np

from benchmarks.train_memory import write_large
from tests.small_sets import split_of


def test_the_large_set_repeats_every_image(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1), np.uint8)
    write_large(split_of(images, np.arange(50) % 3), tmp_path / "large", 10)
    assert np.array_equal(np.load(tmp_path / "large" / "images-00000.npy"), np.tile(images, (10, 1, 1, 1)))
    assert np.array_equal(np.load(tmp_path / "large" / "labels.npy"), np.tile(np.arange(50) % 3, 10))
