import numpy as np
import pytest

from benchmarks.convolutions import Peak
from benchmarks.train_throughput import TimedSplit, report
from tests.small_sets import split_of


def test_a_timed_split_returns_the_same_images_and_times_each_read() -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1), np.uint8)
    timed = TimedSplit(split_of(images), [])
    assert np.array_equal(timed.images(np.array([3, 1])), images[[3, 1]])
    assert len(timed.seconds) == 1
    assert timed.labels is None


def test_the_share_of_the_peak_counts_three_passes() -> None:
    # 10 million multiply-adds at 1,000 images a second are 60 GFLOP/s with the gradients of both sides.
    cost = {"weights_millions": 1.0, "multiply_adds_millions": 10.0, "images_per_sec": 1000.0}
    document = {
        "peak": [
            {"precision": precision, "processes": processes, "flops": flops * 10**9, "seconds": 1.0}
            for precision, processes, flops in (("float32", 1, 100), ("float32", 2, 80), ("bfloat16", 1, 240))
        ],
        "networks": {"ours": cost},
        "command_images_per_sec": 500.0,
        "loading_share": 0.01,
        "tracking_share": 0.01,
        "sender_share": 0.01,
        "memory": [],
    }
    lines = report(document).splitlines()
    assert lines[2].split(" | ")[-2:] == ["0.6", "0.25 |"]
    assert lines[3].split(" | ")[-2:] == ["0.3", "0.125 |"]
    assert Peak(100 * 10**9, 1.0).gflops_per_sec == pytest.approx(100)
