from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.preview import NUM_IMAGES, grid_layout


@given(st.integers(1, 3000))
def test_a_grid_is_no_larger_than_others_and_has_equally_many_images_of_each_class(num_classes: int) -> None:
    labels, columns = grid_layout(num_classes)
    assert labels is not None
    assert len(labels) <= NUM_IMAGES
    assert labels == sorted(labels)
    shown = Counter(labels)
    assert set(shown) <= set(range(num_classes))
    assert len(shown) == min(num_classes, NUM_IMAGES)
    assert set(shown.values()) == {columns or 1}


def test_a_grid_of_images_without_classes_has_no_labels() -> None:
    assert grid_layout(0) == (None, None)
