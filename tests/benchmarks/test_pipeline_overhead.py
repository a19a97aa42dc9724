from pathlib import Path

import numpy as np

from benchmarks.pipeline_overhead import images_of, report, write_folder, write_idx
from pipeline.ingestion.sources.idx import read_idx
from tests.small_sets import split_of

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1), np.uint8)
SPLIT = split_of(IMAGES, np.arange(40) % 10)


def test_all_images_differ_whatever_their_number() -> None:
    images, labels = images_of(SPLIT, 200)
    assert len({image.tobytes() for image in images}) == 200
    assert np.array_equal(labels, np.arange(200) % 40 % 10)


def test_the_pipeline_reads_the_written_idx_files(tmp_path: Path) -> None:
    write_idx(tmp_path, SPLIT, 70)
    images, labels = images_of(SPLIT, 70)
    found = list(read_idx(tmp_path, labelled=True, num_classes=10).images)
    assert [image.split for image in found].count("held_out") == 10
    by_split = sorted(found, key=lambda image: (image.split != "held_out", image.position))
    assert [image.label for image in by_split] == labels.tolist()
    assert all(np.array_equal(image.content, wanted[..., 0]) for image, wanted in zip(by_split, images, strict=True))


def test_a_folder_has_one_file_per_image_in_the_folder_of_its_class(tmp_path: Path) -> None:
    write_folder(tmp_path, SPLIT, 50)
    assert len(list(tmp_path.glob("class */*.png"))) == 50
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"class {label}" for label in range(10)]


def test_the_rate_without_fixed_costs_follows_from_both_set_sizes() -> None:
    results = [
        {"source": "idx", "num_images": count, "seconds": 10 + count / 2000, "peak_mib": 300.0}
        for count in (10_000, 100_000)
    ]
    lines = report({"prepare": results}).splitlines()
    assert lines[2] == "| idx | 10000 | 15 | 667 | – | 300 |"
    assert lines[3] == "| idx | 100000 | 60 | 1667 | 2000 | 300 |"
