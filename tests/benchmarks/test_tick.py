import pytest

from benchmarks.tick import shares


def test_gaps_between_calls_are_the_time_outside_the_network() -> None:
    calls = [(10.0 * tick, 10.0 * tick + 8) for tick in range(20)]
    found = shares(calls)
    assert found == {"network_sec": 8, "outside_sec": 2, "outside_share": pytest.approx(0.2)}
    # Other programs lengthen some calls and gaps.
    disturbed = [(200 + 90.0 * tick, 200 + 90.0 * tick + 50) for tick in range(10)]
    assert shares([*calls, *disturbed]) == found
