from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ArtefactError
from pipeline.evaluation.results import read_results, write_results

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
RESULTS = {"evaluate/kid": 0.1, "evaluate/bits_per_dim": 4.0, "floor/kid": -0.01, "baseline/kid": 2.0}


@given(st.dictionaries(st.sampled_from(["kid", "recall", "density"]), st.tuples(NUMBERS, NUMBERS | st.none())))
def test_what_is_written_is_read_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, figures: dict[str, tuple[float, float | None]]
) -> None:
    folder = tmp_path_factory.mktemp("results")
    metrics = {f"evaluate/{name}": model for name, (model, _) in figures.items()}
    metrics |= {f"baseline/{name}": other for name, (_, other) in figures.items() if other is not None}
    write_results(folder, metrics)
    assert read_results(folder) == metrics


def test_the_metrics_of_dvc_are_those_of_the_model(tmp_path: Path) -> None:
    write_results(tmp_path, RESULTS)
    assert (tmp_path / "metrics.json").read_text() == '{\n  "evaluate/bits_per_dim": 4.0,\n  "evaluate/kid": 0.1\n}\n'
    assert (tmp_path / "figures.csv").read_text().splitlines() == [
        "figure,evaluate,floor,baseline",
        "bits_per_dim,4.0,,",
        "kid,0.1,-0.01,2.0",
    ]


@pytest.mark.parametrize("text", ["", "[]", '{"evaluate/kid": "low"}', '{"evaluate/kid": null}'])
def test_metrics_that_are_none_are_named(tmp_path: Path, text: str) -> None:
    write_results(tmp_path, RESULTS)
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(ArtefactError, match=r"metrics\.json: "):
        read_results(tmp_path)


@pytest.mark.parametrize("name", ["metrics.json", "figures.csv"])
def test_a_missing_file_is_named_with_the_stage_that_writes_it(tmp_path: Path, name: str) -> None:
    write_results(tmp_path, RESULTS)
    (tmp_path / name).unlink()
    with pytest.raises(ArtefactError, match=f"{name}: not found; run the stage `evaluate`"):
        read_results(tmp_path)


def test_a_table_that_was_cut_anywhere_is_named(tmp_path: Path) -> None:
    write_results(tmp_path, RESULTS)
    whole = (tmp_path / "figures.csv").read_text()
    for end in range(len(whole)):
        (tmp_path / "figures.csv").write_text(whole[:end])
        with pytest.raises(ArtefactError, match=r"figures\.csv: "):
            read_results(tmp_path)
