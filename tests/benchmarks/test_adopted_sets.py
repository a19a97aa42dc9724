from pathlib import Path

import pytest

from benchmarks.adopted_sets import name_and_data, report

METRICS = {
    "evaluate/kid_to_all": 0.2,
    "evaluate/kid_to_all_standard_error": 0.01,
    "floor/kid_to_all": -0.003,
    "baseline/kid_to_all": 1.5,
    "evaluate/mse_over_linear": 0.6,
    "evaluate/class_agreement": 0.912,
    "floor/class_agreement": 0.93,
}
RESULT = {"minutes": 12.34, "image_size": 32, "channels": 4, "decision": "accept", "metrics": METRICS}


def test_a_row_has_the_figures_with_their_interval_and_none_for_what_was_not_measured() -> None:
    *_, row = report({"emoji": RESULT}).splitlines()
    assert row == "| emoji | 32 x 4 | 12.3 | accept | 0.2 ± 0.02 | -0.003 | 1.5 | 0.6 | 91.2% | 93.0% | – | – |"


def test_files_are_made_absolute_and_addresses_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.npz").touch()
    assert name_and_data("digits=digits.npz") == ("digits", str(tmp_path / "digits.npz"))
    assert name_and_data("birds=https://a.example/birds.zip?x=1") == ("birds", "https://a.example/birds.zip?x=1")
    with pytest.raises(SystemExit, match="wanted NAME=DATA"):
        name_and_data("digits.npz")
