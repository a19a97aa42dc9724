from pathlib import Path

import pytest

from benchmarks.prepare_shards import IMAGES_PER_SHARD, _rate, _slope, report, write_shard
from pipeline.ingestion.sources import read_raw

COLD = [
    {"workers": workers, "num_images": count, "seconds": 7 + count / (50 * workers), "peak_mib": 300 + count / 512}
    for count in (100, 200)
    for workers in (1, 2)
]


def test_fixed_costs_are_left_out_of_rates_and_memory() -> None:
    assert [_rate(COLD, workers) for workers in (1, 2)] == pytest.approx([50, 100])
    assert 1024 * _slope(COLD, 2, "peak_mib") == pytest.approx(2)


def test_a_busy_machine_on_which_more_images_took_less_time_has_no_rate() -> None:
    few, many = COLD[0], COLD[2] | {"seconds": 1.0}
    assert _rate([few, many], 1) is None


def test_the_report_names_every_set_and_rate() -> None:
    run = {"seconds": 9.0, "peak_mib": 310.0}
    found = {"grown_by_images": 500, "grown": run, "again": run, "images_per_sec": {1: 50.0, 2: 100.0}}
    last = {"last": {"num_images": 1_000_000, "seconds": 1234.0, "peak_mib": 2500.0}, "last_images_per_sec": 90.0}
    text = report({"cold": COLD, **found, **last, "memory_kib_per_image": 2.0})
    assert "| 200 images | 2 | 9 | 300 |" in text
    assert "| 1,000,000 images | 2 | 1,234 | 2,500 |" in text
    assert "50 by 1, 100 by 2, 90 by 2 up to the last set; memory for each further image: 2.00 KiB" in text


def test_generated_shards_are_a_set_of_distinct_images_in_ten_classes(tmp_path: Path) -> None:
    write_shard(tmp_path, 0)
    write_shard(tmp_path, 1)
    images = list(read_raw(tmp_path, "images", labelled=True, num_classes=None).images)
    assert len({image.content for image in images}) == len(images) == 2 * IMAGES_PER_SHARD
    assert {image.label for image in images} == set(range(10))
