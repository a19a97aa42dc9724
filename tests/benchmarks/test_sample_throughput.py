from hypothesis import given
from hypothesis import strategies as st

from benchmarks.sample_throughput import STEPS, fewest, report
from benchmarks.sampled_networks import Quality


@given(st.integers(0, 60))
def test_bisection_finds_the_fewest_steps_that_are_enough(needed: int) -> None:
    wanted = next((steps for steps in STEPS if steps >= needed), STEPS[-1])
    assert fewest(STEPS, lambda steps: steps >= needed) == wanted


def test_quality_is_equal_within_the_error_of_the_wanted_one() -> None:
    wanted = Quality(kid=1.0, standard_error=0.2)
    assert Quality(1.19, 0.5).is_as_good_as(wanted)
    assert not Quality(1.21, 0.5).is_as_good_as(wanted)


def test_the_table_has_the_ratio_to_the_peers_pipeline_with_all_its_steps() -> None:
    found = {"ddim_kid": 1.0, "ddim_kid_standard_error": 0.1, "steps": 10, "kid": 1.0}
    speeds = [
        {"name": name, "backend": "x", "steps": steps, "batch_size": 8, "images_per_sec": rate}
        for name, steps, rate in (("diffusers", 50, 2.0), ("diffusers", 20, 5.0), ("ours", 10, 60.0))
    ]
    lines = report({"qualities": {"ours": found}, "speeds": speeds}).splitlines()
    assert lines[-1] == "| ours | x | 10 | 60 (x30.0) |"
    assert lines[-2] == "| diffusers | x | 20 | 5 (x2.5) |"
