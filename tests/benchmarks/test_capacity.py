import pytest

from benchmarks.capacity import duration, num_replicas, prepared_gib, prepared_per_sec, report, row_steps_per_sec
from tests.deploy.environment import ROOT


def test_replicas_are_as_many_as_keep_to_the_load() -> None:
    speed = row_steps_per_sec({"cases": [{"network_sec": 0.009, "outside_sec": 0.001}]})
    assert speed == pytest.approx(800)
    # 100 requests of 20 row-steps are 2000 a second: two and a half replicas, and twice as many at half the load.
    assert num_replicas(100, 20, speed, 1.0) == 3
    assert num_replicas(100, 20, speed, 0.5) == 5


def test_fixed_costs_of_prepare_are_left_out_of_its_speed_and_part_of_its_memory() -> None:
    few, many = (
        {"source": "images", "num_images": count, "seconds": 7 + count / 50, "peak_mib": 512 + count / 8}
        for count in (100, 200)
    )
    overhead = {"prepare": [many, few, {"source": "idx", "num_images": 1, "seconds": 1, "peak_mib": 1}]}
    assert prepared_per_sec(overhead, "images") == pytest.approx(50)
    assert prepared_gib({"cold": [few], "last": many}, 12288) == pytest.approx(2)


def test_durations_have_the_largest_unit_of_which_there_is_one() -> None:
    assert [duration(seconds) for seconds in (3, 61, 5400, 200_000, 7e7)] == [
        "3.0 s",
        "1.0 minutes",
        "1.5 hours",
        "2.3 days",
        "2.2 years",
    ]


def test_the_tables_of_the_docs_are_what_the_command_prints() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text()
    for line in report(rows=20, load=0.6).splitlines():
        assert line in page
