from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.time_to_quality import Pace, Task, pace_of, report, waiting, write_figure
from pipeline.diffusion.errors import FoundryError

RESULT = {
    "kid": 0.5,
    "kid_standard_error": 0.1,
    "num_images": 1000,
    "seconds": 60.0,
    "peak_mib": 500.0,
    "guidance_scale": 1.1,
}


@given(overhead=st.floats(0, 100), rate=st.floats(1, 1000), images=st.integers(1, 1000), more=st.integers(100, 100_000))
def test_two_trials_of_a_steady_command_tell_its_pace(overhead: float, rate: float, images: int, more: int) -> None:
    trials = [(count, overhead + count / rate) for count in (images, images + more)]
    pace = Pace.of(*trials)
    assert pace.images_per_sec == pytest.approx(rate, rel=1e-6)
    assert pace.overhead_sec == pytest.approx(overhead, abs=1e-6 * (1 + overhead + images))


def test_as_many_images_are_seen_as_fit_into_the_time() -> None:
    assert Pace(overhead_sec=10.0, images_per_sec=7.0).images_in(20.1) == 70
    with pytest.raises(FoundryError, match="too short"):
        Pace(overhead_sec=10.0, images_per_sec=7.0).images_in(10.1)


def test_a_trial_that_takes_no_longer_with_more_images_tells_nothing() -> None:
    with pytest.raises(FoundryError, match="no pace"):
        Pace.of((512, 9.0), (2048, 8.0))


def test_trials_grow_until_one_is_long_enough() -> None:
    asked = []

    def trial(num_images: int) -> float:
        asked.append(num_images)
        return 5 + num_images / 100

    assert pace_of(trial, 45.0) == Pace(overhead_sec=pytest.approx(5.0), images_per_sec=pytest.approx(100.0))
    assert asked == [512, 2048, 8192]


def test_what_has_a_result_is_not_done_again() -> None:
    tasks = [Task("ours", 6.0, 0), Task("ours", 6.0, 1), Task("diffusers", 6.0, 0)]
    assert waiting(tasks, [{"arm": "ours", "minutes": 6.0, "seed": 0}]) == tasks[1:]


def test_the_table_has_medians_and_their_ratio_to_ours(tmp_path: Path) -> None:
    distances = {"ours": (2.0, 4.0, 9.0), "diffusers": (40.0, 60.0, 50.0)}
    results = [
        {**RESULT, "arm": arm, "minutes": 6.0, "seed": seed, "frechet_distance": distance}
        for arm, values in distances.items()
        for seed, distance in enumerate(values)
    ]
    lines = report({"results": results}).splitlines()
    assert lines[2:] == [
        "| 6 | ours | 1000 | 60 | 1.1 | 4 | 0.5 | 0.1 | 1 |",
        "| 6 | diffusers | 1000 | 60 | 1.1 | 50 | 0.5 | 0.1 | 12.5 |",
    ]
    write_figure(tmp_path / "figure.png", {"results": results})
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
