import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.diffusion.refinement import Times, refined


class Counted:
    """How far from the wanted times, and how often that was asked."""

    def __init__(self, wanted: Times) -> None:
        self.wanted, self.asked = wanted, list[Times]()

    def __call__(self, times: Times) -> float:
        self.asked.append(times)
        return sum((t - w) ** 2 for t, w in zip(times, self.wanted, strict=True))


def test_the_best_times_are_found_where_there_are_tries_enough() -> None:
    wanted = (999, 820, 411, 100, 7)
    assert refined((999, 700, 500, 300, 100), Counted(wanted), num_tries=1000) == wanted


falling = st.sets(st.integers(0, 999), min_size=1, max_size=12).map(lambda t: tuple(sorted(t, reverse=True)))


@given(falling, st.integers(1, 60), st.lists(st.integers(0, 999), min_size=12, max_size=12))
def test_any_search_keeps_to_its_tries_and_gives_valid_times_that_are_no_worse(
    times: Times, num_tries: int, somewhere: list[int]
) -> None:
    loss = Counted(tuple(somewhere[: len(times)]))
    found = refined(times, loss, num_tries=num_tries)
    assert len(loss.asked) <= num_tries
    for tried in loss.asked:
        assert tried[0] == times[0]
        assert tried[-1] >= 0
        assert all(a > b for a, b in itertools.pairwise(tried))
    assert found in loss.asked
    assert loss(found) <= loss(times)


@pytest.mark.parametrize("times", [(5,), (2, 1, 0)])
def test_times_without_room_stay(times: Times) -> None:
    assert refined(times, Counted(times), num_tries=10) == times
