from benchmarks.guidance import report


def test_the_table_has_one_row_per_scale_with_the_values_of_all_seeds() -> None:
    results = [
        {"guidance_scale": scale, "seed": seed, "frechet_distance": scale + seed, "kid": seed / 10}
        for scale in (1.0, 1.1)
        for seed in (1, 3)
    ]
    lines = report(results).splitlines()
    assert lines[2:] == ["| 1 | 2.00, 4.00 | 3 | 0.10, 0.30 | 0.2 |", "| 1.1 | 2.10, 4.10 | 3.1 | 0.10, 0.30 | 0.2 |"]
