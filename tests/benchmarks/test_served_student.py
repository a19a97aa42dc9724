from pathlib import Path

import numpy as np

from benchmarks.served_student import report, write_students
from pipeline.artefacts.model import load_model
from pipeline.inference.draw import draw


def test_a_student_differs_in_its_sampling_alone(small_model: Path, tmp_path: Path) -> None:
    model, folders = load_model(small_model), write_students(small_model, tmp_path / "students")
    assert [load_model(each).description.sampling.num_rows for each in folders.values()] == [4, 2, 1]
    drawn = draw(load_model(folders["student of 2"]), [7], [1])
    assert np.array_equal(drawn, draw(model, [7], [1], sampler="ddim", num_steps=2))


def test_the_table_has_medians_and_their_ratio_to_the_default() -> None:
    blocks = [
        {"model": name, "round": number, "images_per_sec": rate, "alone_ms": 10.0 * rows}
        for name, rows, rates in (("default", 14, (9.0, 10.0, 30.0)), ("student of 2", 2, (60.0, 50.0, 40.0)))
        for number, rate in enumerate(rates)
    ]
    lines = report({"default": 14, "student of 2": 2}, blocks).splitlines()
    assert lines[2:] == ["| default | 14 | 10 | 1 | 140 |", "| student of 2 | 2 | 50 | 5 | 20 |"]
