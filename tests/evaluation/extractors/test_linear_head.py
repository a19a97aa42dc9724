import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.evaluation.extractors.linear_head import RIDGES, fit_head, recognises_more


def _clusters(count: int, classes: int, spread: float) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """Points around one random centre per class, in six dimensions."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % classes
    points = 3 * random.standard_normal((classes, 6))[labels] + spread * random.standard_normal((count, 6))
    return torch.from_numpy(points).float(), labels


@pytest.mark.parametrize("classes", [2, 4])
def test_each_image_is_judged_by_a_head_that_was_fitted_to_the_others(
    classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = _clusters(40, classes, spread=4.0)
    monkeypatch.setattr("pipeline.evaluation.extractors.linear_head.RIDGES", (10.0,))
    found = fit_head(features, labels, classes).recognised
    wanted = []
    for row in range(len(labels)):
        others = np.arange(len(labels)) != row
        head = fit_head(features[others], labels[others], classes)
        wanted.append((head.weight @ features[row] + head.bias).argmax().item() == labels[row])
    assert found.tolist() == wanted
    assert 0.2 < found.mean() < 1


def test_distant_classes_are_recognised_and_noise_is_not() -> None:
    features, labels = _clusters(200, 4, spread=0.1)
    head = fit_head(features, labels, 4)
    assert head.recognised.all()
    assert ((features @ head.weight.T + head.bias).argmax(dim=1).numpy() == labels).all()
    shuffled = np.random.default_rng(1).permutation(labels)
    assert fit_head(features, shuffled, 4).recognised.mean() < 0.4
    assert tuple(sorted(RIDGES)) == RIDGES


def _hits(both: int, only_ours: int, only_theirs: int, none: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    counts = [both, only_ours, only_theirs, none]
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


def test_a_difference_counts_beyond_two_standard_errors() -> None:
    # 30 - 14 = 16 > 2 sqrt(44) = 13.3, and 28 - 16 = 12 is less than that.
    assert recognises_more(*_hits(100, 30, 14, 20))
    assert not recognises_more(*_hits(100, 28, 16, 20))


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_two_networks_never_both_recognise_more(both: int, ours: int, theirs: int) -> None:
    one, other = _hits(both, ours, theirs, 1)
    assert not (recognises_more(one, other) and recognises_more(other, one))
