from benchmarks.precision import report


def test_the_table_has_one_row_per_network_with_both_precisions() -> None:
    rates = {"ours, float32": 200.0, "ours, bfloat16": 300.0, "ddp, float32": 20.0, "ddp, bfloat16": 40.0}
    assert report(rates).splitlines()[2:] == ["| ours | 200 | 300 |", "| ddp | 20 | 40 |"]
