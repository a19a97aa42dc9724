from benchmarks.training_cost import report


def test_the_table_has_the_estimates_relative_to_the_step() -> None:
    step = {"side": 128, "micro_batch_size": 12, "estimated_sec": 11.0, "step_sec": 10.0}
    memory = {"estimated_mib": 900.0, "peak_mib": 1000.0}
    assert report([step | memory]).splitlines()[2] == "| 128 | 12 | 10 | 1.1 | 1000 | 0.9 |"
