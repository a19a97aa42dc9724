from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.preview import NUM_IMAGES, grid_layout, grid_steps


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


def test_the_first_grids_come_early_and_the_last_at_the_end() -> None:
    assert sorted(grid_steps(1500, 4)) == [15, 30, 75, 150, 375, 750, 1125, 1500]
    assert grid_steps(1500, 0) == frozenset()


@given(st.integers(1, 5000), st.integers(1, 50))
def test_grids_are_drawn_within_the_training_and_after_each_part(num_steps: int, num_grids: int) -> None:
    steps = grid_steps(num_steps, num_grids)
    assert min(steps) >= 1
    assert max(steps) == num_steps
    assert len(steps) <= num_grids + 4
    for part in range(1, num_grids + 1):
        # The first step at which so large a part of the training is complete.
        step = next(step for step in sorted(steps) if step * num_grids >= part * num_steps)
        assert (step - 1) * num_grids < part * num_steps
