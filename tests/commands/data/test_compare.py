from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.commands.data.compare import compare
from pipeline.params import PrepareParams
from pipeline.reporting.data_change import change_between
from pipeline.reporting.image_set import open_raw
from tests.image_sets import prepare_arrays, write_arrays

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]


def test_a_prepared_set_can_be_compared_with_raw_data(
    tmp_path: Path, digits: Digits, prepare_params: Callable[..., PrepareParams]
) -> None:
    params = prepare_params(source="arrays", channels=1)
    raw = write_arrays(tmp_path / "raw", digits[0][:150], digits[1][:150])
    prepare_arrays(raw, tmp_path / "prepared", params)
    found = compare(tmp_path / "prepared", raw, params, tmp_path / "same")
    assert set(found.counts.values()) == {0}
    assert (
        "Both sets contain the same images with the same classes" in (tmp_path / "same" / "comparison.html").read_text()
    )

    later = write_arrays(tmp_path / "later", digits[0][5:160], digits[1][5:160])
    found = compare(tmp_path / "prepared", later, params, tmp_path / "out")
    assert (found.counts["added"], found.counts["removed"]) == (10, 5)
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert page.count('src="data:image/png;base64,') == 15 + found.counts["moved"]
    assert "digits.npz#0" in page


def test_sets_of_another_size_are_compared_by_their_sources(
    photo_folder: Path, prepare_params: Callable[..., PrepareParams]
) -> None:
    small, large = prepare_params(), prepare_params(image_size=16)
    with open_raw(photo_folder, small) as before, open_raw(photo_folder, large) as after:
        changed = change_between(before, after)
        # The split of an image follows from its prepared pixels, which differ.
        assert {kind for kind, rows in changed.items() if len(rows)} <= {"moved"}
        assert after.pixels(after.accepted.head(3)).shape == (3, 16, 16, 3)
