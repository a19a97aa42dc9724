from benchmarks.distillation import report


def test_distances_and_recall_are_ratios_to_the_first_arm() -> None:
    results = [
        {
            "arm": name, "num_rows": rows, "frechet_distance": distance, "kid": 0.5, "kid_standard_error": 0.1,
            "recall": recall, "sharpness_ratio": 1.0, "rms_to_exact": 0.05, "training_sec": seconds,
        }
        for name, rows, distance, recall, seconds in (("model", 20, 2.0, 0.8, 0.0), ("student", 2, 3.0, 0.6, 150.0))
    ]  # fmt: skip
    lines = report(results).splitlines()
    assert lines[2:] == [
        "| model | 20 | 1 | 0.5 ± 0.1 | 1 | 1 | 0.05 | 0 |",
        "| student | 2 | 1.5 | 0.5 ± 0.1 | 0.75 | 1 | 0.05 | 150 |",
    ]
