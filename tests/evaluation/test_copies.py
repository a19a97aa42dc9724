import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from pipeline.artefacts.dataset import SHARD_SIZE, Split
from pipeline.evaluation import copies
from pipeline.evaluation.copies import (
    FLAT,
    are_near_copies,
    near_copy_threshold,
    nearest,
    shifted_near_copy_share,
    structure,
    unique_share,
)
from tests.small_sets import split_of

Images = NDArray[np.uint8]


@pytest.fixture(scope="module")
def sets(digits: tuple[Images, NDArray[np.int64]]) -> tuple[Split, Images, Images]:
    """Training images, and two halves of others."""
    images = np.random.default_rng(0).permutation(digits[0])[..., None]
    return split_of(images[:1000]), images[1000:1400], images[1400:]


@pytest.fixture(scope="module")
def threshold(sets: tuple[Split, Images, Images]) -> float:
    return near_copy_threshold(nearest(sets[1], sets[0]))


def _noisy(images: Images, std: float) -> Images:
    noise = np.random.default_rng(1).normal(0, std, images.shape)
    return np.clip(images + noise, 0, 255).round().astype(np.uint8)


def test_the_neighbours_agree_with_another_exact_search(
    sets: tuple[Split, Images, Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    train, images, _ = sets
    monkeypatch.setattr(copies, "NUM_ROWS", 7)
    monkeypatch.setattr(copies, "NUM_COLUMNS", 64)
    found = nearest(images[:300], train)
    search = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(_greys(train.shards[0]))
    (distances, indices), (mirrored, of_mirrored) = (
        search.kneighbors(_greys(view)) for view in (images[:300], images[:300, :, ::-1])
    )
    closer = mirrored[:, 0] < distances[:, 0]
    assert 0 < closer.mean() < 1
    assert np.allclose(found.distances[:, 0].numpy(), np.minimum(mirrored, distances)[:, 0], atol=1e-5)
    assert np.allclose(found.distances[:, 1:].numpy(), distances[:, 1:], atol=1e-5)
    assert (found.indices[:, 0].numpy() == np.where(closer, of_mirrored[:, 0], indices[:, 0])).all()


def _greys(images: Images) -> NDArray[np.float64]:
    """The structure of 8x8 grey images, by NumPy."""
    x = images.reshape(len(images), -1) / 255
    return (x - x.mean(axis=1, keepdims=True)) / (x.std(axis=1, keepdims=True) + FLAT)


@pytest.mark.parametrize("change", ["mirrored", "darker", "in other colours"])
def test_copies_that_are_changed_as_a_whole_are_found(
    change: str, sets: tuple[Split, Images, Images], threshold: float
) -> None:
    images = sets[0].shards[0][:100]
    changed = {
        "mirrored": images[:, :, ::-1],
        "darker": (images * 0.6 + 20).astype(np.uint8),
        "in other colours": 255 - (255 - images) // 2,
    }[change]
    assert are_near_copies(nearest(changed, sets[0]), threshold).mean() > 0.95


def test_a_copy_with_its_colours_swapped_has_the_same_structure() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 12, 3)).astype(np.uint8)
    assert torch.allclose(structure(images), structure(images[..., ::-1].copy()), atol=1e-5)


def test_images_of_one_colour_are_alike_and_nothing_is_divided_by_zero() -> None:
    flat = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (0, 77, 255)])
    assert torch.equal(structure(flat), torch.zeros(3, 64))


def test_the_search_crosses_shards() -> None:
    images = np.random.default_rng(0).integers(0, 256, (SHARD_SIZE + 3, 4, 4, 1)).astype(np.uint8)
    train = Split((images[:SHARD_SIZE], images[SHARD_SIZE:]), None)
    rows = [0, SHARD_SIZE - 1, SHARD_SIZE, SHARD_SIZE + 2]
    found = nearest(images[rows], train)
    assert found.indices[:, 0].tolist() == rows
    assert (found.distances[:, 0] == 0).all()


def test_noisy_copies_are_found(sets: tuple[Split, Images, Images], threshold: float) -> None:
    train = sets[0]
    for images in (train.shards[0][:300], _noisy(train.shards[0][:300], 8)):
        assert are_near_copies(nearest(images, train), threshold).mean() > 0.95


def test_new_images_have_about_one_near_copy_in_a_hundred(sets: tuple[Split, Images, Images], threshold: float) -> None:
    assert are_near_copies(nearest(sets[2], sets[0]), threshold).mean() < 0.05


def test_a_copy_of_an_image_that_is_five_times_in_the_training_set_is_found() -> None:
    train = split_of(np.full((9, 4, 4, 1), 77, np.uint8))
    assert are_near_copies(nearest(train.shards[0][:1], train), 0.1).mean() == 1


def test_shifted_copies_are_found_only_by_the_search_that_shifts(digits: tuple[Images, NDArray[np.int64]]) -> None:
    images = np.pad(np.random.default_rng(0).permutation(digits[0])[..., None], ((0, 0), (2, 2), (2, 2), (0, 0)))
    train, others = split_of(images[:1000]), images[1000:1400]
    threshold = near_copy_threshold(nearest(others, train))
    shifted = np.roll(train.shards[0][:100], (1, -1), axis=(1, 2))
    assert are_near_copies(nearest(shifted, train), threshold).mean() < 0.1
    assert shifted_near_copy_share(shifted, train, threshold) == 1
    assert shifted_near_copy_share(images[1400:1500], train, threshold) < 0.2


@pytest.mark.parametrize(("num_kept", "least", "most"), [(16, 0.03, 0.05), (400, 0.99, 1.0)])
def test_only_the_first_of_equal_images_is_unique(
    num_kept: int, least: float, most: float, sets: tuple[Split, Images, Images], threshold: float
) -> None:
    train, images, _ = sets
    drawn = images[np.arange(400) % num_kept]
    assert least <= unique_share(drawn, nearest(drawn, train), threshold) <= most


def test_large_images_are_averaged_down_before_the_comparison() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    grey = images.reshape(2, 16, 4, 16, 4, 3).mean(axis=(2, 4, 5)).reshape(2, -1) / 255
    wanted = (grey - grey.mean(axis=1, keepdims=True)) / (grey.std(axis=1, keepdims=True) + FLAT)
    assert torch.allclose(structure(images), torch.from_numpy(wanted).float(), atol=1e-4)
