from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.artefacts.dataset import SHARD_SIZE, Dataset, DatasetInfo, digest_of, shard_names, write_split
from pipeline.errors import ArtefactError

NUM_TRAIN, NUM_HELD_OUT = 2 * SHARD_SIZE + 5, 7
CLASSES = ("cat", "dog", "bird")


def pixels(num_images: int) -> NDArray[np.uint8]:
    """Grey images of 2x2 pixels, all different."""
    numbers = np.arange(num_images, dtype=np.uint32)
    return numbers.view(np.uint8).reshape(num_images, 2, 2, 1)


def write_dataset(folder: Path, *, class_names: tuple[str, ...] | None = CLASSES) -> Path:
    folder.mkdir(exist_ok=True)
    for split, num_images in (("train", NUM_TRAIN), ("held_out", NUM_HELD_OUT)):
        labels = np.arange(num_images) % len(CLASSES) if class_names else None
        images = pixels(num_images)
        write_split(folder / split, np.arange(num_images), lambda at, images=images: images[at], labels)  # type: ignore[misc]
    info = DatasetInfo(
        image_size=2,
        channels=1,
        class_names=class_names,
        num_train=NUM_TRAIN,
        num_held_out=NUM_HELD_OUT,
        digest=digest_of(folder),
    )
    (folder / "dataset.json").write_text(json.dumps(info.document()))
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset.open(write_dataset(tmp_path_factory.mktemp("dataset_folder")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path)


def test_the_info_describes_the_splits(dataset: Dataset) -> None:
    info = dataset.info
    assert (info.image_size, info.channels, info.class_names, info.num_classes) == (2, 1, CLASSES, 3)
    assert (len(dataset.split("train")), len(dataset.split("held_out"))) == (NUM_TRAIN, NUM_HELD_OUT)


def test_a_shard_is_full_before_the_next_begins(dataset: Dataset) -> None:
    assert [len(shard) for shard in dataset.split("train").shards] == [SHARD_SIZE, SHARD_SIZE, 5]
    assert shard_names(SHARD_SIZE) == ["images-00000.npy"]


def test_images_are_returned_in_the_order_of_the_indices_across_shards(dataset: Dataset) -> None:
    train = dataset.split("train")
    indices = np.random.default_rng(0).integers(0, NUM_TRAIN, 1000)
    for chosen in (indices, indices.astype(np.int32), np.array([NUM_TRAIN - 1, 0, NUM_TRAIN - 1]), np.arange(0)):
        found = train.images(chosen)
        np.testing.assert_array_equal(found, pixels(NUM_TRAIN)[chosen])
        assert found.shape == (len(chosen), 2, 2, 1)


@pytest.mark.parametrize("chosen", [
    slice(None), slice(SHARD_SIZE - 2, SHARD_SIZE + 2), slice(None, None, -5000), slice(-3, None), slice(5, 5),
])  # fmt: skip
def test_slices_select_as_those_of_arrays(dataset: Dataset, chosen: slice) -> None:
    np.testing.assert_array_equal(dataset.split("train").images(chosen), pixels(NUM_TRAIN)[chosen])


def test_changing_returned_images_does_not_change_the_dataset(dataset: Dataset) -> None:
    train = dataset.split("train")
    train.images(slice(0, 4))[:] = 9
    np.testing.assert_array_equal(train.images(slice(0, 4)), pixels(4))


@pytest.mark.parametrize("index", [-1, NUM_TRAIN])
def test_indices_out_of_range_are_rejected(dataset: Dataset, index: int) -> None:
    with pytest.raises(IndexError, match=f"{index}.*of {NUM_TRAIN} images"):
        dataset.split("train").images(np.array([0, index]))


def test_labels_are_in_the_order_of_the_images(dataset: Dataset) -> None:
    labels = dataset.split("held_out").labels
    assert labels is not None
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_without_classes_there_are_no_labels(tmp_path: Path) -> None:
    dataset = Dataset.open(write_dataset(tmp_path, class_names=None))
    assert (dataset.info.class_names, dataset.info.num_classes) == (None, 0)
    assert dataset.split("train").labels is None


def test_the_digest_changes_with_a_pixel_a_label_and_nothing_else(tmp_path: Path) -> None:
    first, second = write_dataset(tmp_path / "a"), write_dataset(tmp_path / "b")
    assert digest_of(first) == digest_of(second) == Dataset.open(first).info.digest
    for name in ("held_out/images-00000.npy", "held_out/labels.npy"):
        path = second / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert digest_of(second) != digest_of(first)
        path.write_bytes(whole)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def add(path: Path) -> None:
    path.with_name("images-00009.npy").write_bytes(path.read_bytes())


def flip_a_bit(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def save(array: NDArray[np.generic]) -> Callable[[Path], None]:
    return lambda path: np.save(path, array)


def save_objects(path: Path) -> None:
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(("name", "damage", "message"), [
    ("train/images-00001.npy", cut, "images-00001.npy: damaged"),
    ("train/images-00001.npy", lengthen, "images-00001.npy: damaged: found 65665 bytes, wanted 65664"),
    ("train/images-00001.npy", empty, "images-00001.npy: damaged"),
    ("train/images-00001.npy", flip_a_bit, r"images or labels were modified: digest \w+, wanted \w+"),
    ("train/images-00001.npy", remove, "train: found the files .*images-00002.npy.*, wanted .*images-00001.npy"),
    ("train/images-00001.npy", add, "train: found the files .*images-00009.npy"),
    ("train/images-00001.npy", save(np.zeros((5, 2, 2, 1), np.uint8)), r"found uint8 \[5, 2, 2, 1\], wanted uint8 \[16384, 2, 2, 1\]"),
    ("train/images-00001.npy", save(np.zeros((SHARD_SIZE, 2, 2, 1), np.int8)), r"found int8 .*, wanted uint8"),
    ("train/images-00001.npy", save_objects, "images-00001.npy: damaged"),
    ("held_out/labels.npy", remove, "held_out: found the files images-00000.npy, wanted images-00000.npy, labels.npy"),
    ("held_out/labels.npy", save(np.zeros(6, np.int64)), r"labels.npy: found int64 \[6\], wanted int64 \[7\]"),
    ("held_out/labels.npy", save(np.zeros(7, np.int32)), r"labels.npy: found int32 \[7\], wanted int64 \[7\]"),
    ("held_out/labels.npy", save(np.full(7, 3)), "labels.npy: found labels 3 … 3, wanted 0 … 2"),
    ("held_out/labels.npy", save(np.full(7, -1)), "labels.npy: found labels -1 … -1, wanted 0 … 2"),
    ("dataset.json", remove, "dataset.json: not found; run the stage `prepare`"),
    ("dataset.json", empty, "dataset.json: not JSON"),
])  # fmt: skip
def test_damaged_or_inconsistent_files_are_rejected_by_name(
    folder: Path, name: str, damage: Callable[[Path], None], message: str
) -> None:
    damage(folder / name)
    with pytest.raises(ArtefactError, match=message):
        Dataset.open(folder)


@pytest.mark.parametrize(("change", "message"), [
    ({"num_train": NUM_TRAIN - 1}, r"images-00002.npy: found uint8 \[5, 2, 2, 1\], wanted uint8 \[4, 2, 2, 1\]"),
    ({"num_held_out": 0}, "num_held_out: found 0, wanted a number above 0"),
    ({"num_train": True}, "num_train: found True, wanted a number above 0"),
    ({"image_size": 3}, r"wanted uint8 \[16384, 3, 3, 1\]"),
    ({"image_size": [3, 2]}, r"wanted uint8 \[16384, 3, 2, 1\]"),
    ({"image_size": [3, 2, 1]}, r"image_size: found \[3, 2, 1\], wanted a number of pixels or \[height, width\]"),
    ({"channels": 3}, r"wanted uint8 \[16384, 2, 2, 3\]"),
    ({"class_names": None}, "wanted images-00000.npy, images-00001.npy, images-00002.npy"),
    ({"class_names": []}, r"class_names: found \[\], wanted null or a list of names"),
    ({"class_names": ["cat", 2]}, "wanted null or a list of names"),
    ({"digest": None}, "digest: found None, wanted a SHA-256"),
    ({"more": 1}, "found the keys .*'more'.*, wanted"),
])  # fmt: skip
def test_an_inconsistent_dataset_json_is_rejected(folder: Path, change: dict[str, object], message: str) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ArtefactError, match=message):
        Dataset.open(folder)
