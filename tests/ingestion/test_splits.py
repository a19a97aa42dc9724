from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from pipeline.ingestion.splits import LEAST, MOST, are_held_out


def images(
    numbers: Sequence[int], classes: Sequence[str | None] | None = None, groups: Sequence[int] = ()
) -> pd.DataFrame:
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in numbers]
    return pd.DataFrame({
        "pixels_sha256": digests,
        "class_name": pd.array(classes if classes is not None else [None] * len(digests), "str"),
        "group": groups or list(numbers),
    })  # fmt: skip


def held_out(rows: pd.DataFrame, share: float) -> NDArray[np.bool_]:
    return are_held_out(rows, share)


def test_the_held_out_share_is_close_to_the_param() -> None:
    # Five standard deviations of a binomial share.
    assert abs(held_out(images(range(20_000)), 0.1).mean() - 0.1) < 5 * (0.1 * 0.9 / 20_000) ** 0.5


@pytest.mark.parametrize("num_images", [100, 500])
def test_adding_images_moves_none_to_another_split(num_images: int) -> None:
    few, many = held_out(images(range(num_images)), 0.2), held_out(images(range(2000)), 0.2)
    np.testing.assert_array_equal(few, many[:num_images])


def test_equal_images_are_in_one_split() -> None:
    split = held_out(images([*range(100), *range(100)]), 0.5)
    np.testing.assert_array_equal(split[:100], split[100:])


def test_near_duplicates_are_in_one_split_and_the_share_is_kept() -> None:
    groups = [number // 3 for number in range(3000)]
    split = held_out(images(range(3000), groups=groups), 0.3)
    assert all(len(set(split[start : start + 3])) == 1 for start in range(0, 3000, 3))
    assert abs(split.mean() - 0.3) < 0.07


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_every_small_class_has_its_share_held_out(share: float) -> None:
    classes = [f"{number % 40}" for number in range(40 * 20)]
    split = held_out(images(range(40 * 20), classes), share)
    counts = pd.Series(split).groupby(classes).sum()
    assert counts.between(max(1, 20 * share * LEAST - 1), 20 * share * MOST + 1).all()


@pytest.mark.parametrize("share", [0.0001, 0.5, 0.9999])
@pytest.mark.parametrize("num_images", [2, 3, 10, 1000])
def test_no_split_is_empty(share: float, num_images: int) -> None:
    assert set(held_out(images(range(num_images)), share)) == {True, False}


def test_the_only_image_of_a_class_is_trained_on() -> None:
    split = held_out(images(range(41), [*["many"] * 40, "one"]), 0.2)
    assert not split[-1]
