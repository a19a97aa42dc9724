import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.throughput import Throughput, measure_throughput
from pipeline.errors import FoundryError


@given(overhead=st.floats(0, 100), rate=st.floats(1, 1000), images=st.integers(1, 1000), more=st.integers(100, 100_000))
def test_two_trials_of_a_steady_command_give_its_throughput(
    overhead: float, rate: float, images: int, more: int
) -> None:
    trials = [(count, overhead + count / rate) for count in (images, images + more)]
    pace = Throughput.from_trials(*trials)
    assert pace.images_per_sec == pytest.approx(rate, rel=1e-6)
    assert pace.overhead_sec == pytest.approx(overhead, abs=1e-6 * (1 + overhead + images))


def test_the_number_of_images_fits_into_the_time() -> None:
    assert Throughput(overhead_sec=10.0, images_per_sec=7.0).images_in(20.1) == 70
    with pytest.raises(FoundryError, match="too short"):
        Throughput(overhead_sec=10.0, images_per_sec=7.0).images_in(10.1)


def test_a_trial_with_more_images_that_is_not_slower_is_refused() -> None:
    with pytest.raises(FoundryError, match="should take longer"):
        Throughput.from_trials((512, 9.0), (2048, 8.0))


def test_trials_grow_until_one_is_long_enough() -> None:
    counts = []

    def trial(num_images: int) -> float:
        counts.append(num_images)
        return 5 + num_images / 100

    assert measure_throughput(trial, 45.0) == Throughput(
        overhead_sec=pytest.approx(5.0), images_per_sec=pytest.approx(100.0)
    )
    assert counts == [512, 2048, 8192]
