"""Each check of the suite fails for its own fault and for no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import great_expectations.expectations as gxe
import pandas as pd
import pytest

from pipeline.ingestion.expectations import Check, _mostly, run_checks, suite, validate
from pipeline.ingestion.manifest import build_manifest, join, to_frame
from pipeline.ingestion.validation import ValidationReport
from pipeline.params import PrepareParams

Make = Callable[..., PrepareParams]
CLASSES = ("cat", "dog")


def good(num_images: int = 40) -> pd.DataFrame:
    """A manifest without faults: two classes, a tenth of each held out."""
    rows = [
        {
            "file": f"{number:04}.png",
            "state": "accepted",
            "split": "held_out" if number % 20 < 2 else "train",
            "class_name": CLASSES[number % 2],
            "width": 64,
            "height": 48,
            "mode": "RGB",
            "num_bytes": 1000,
            "sha256": f"{number:064x}",
            "pixels_sha256": f"{number:064x}",
            "phash": f"{number:016x}",
            "mean": 100.0,
            "std": 50.0,
            "neighbour_correlation": 0.8,
        }
        for number in range(num_images)
    ]
    return build_manifest(join([to_frame(rows)]), None, 0.1)[0]


@pytest.fixture
def strict(prepare_params: Make) -> PrepareParams:
    return prepare_params(
        min_num_images=10,
        max_broken_share=0.1,
        max_duplicate_share=0.1,
        max_blank_share=0.1,
        max_noise_share=0.1,
        max_class_ratio=2.0,
    )


def failures(table: pd.DataFrame, params: PrepareParams) -> dict[str, Any]:
    validation = validate(table, CLASSES, params)
    assert validation.success == (not validation.findings())
    return {name: result.observed for name, result in validation.checks.items() if not result.success}


def test_a_good_manifest_passes_every_check(strict: PrepareParams) -> None:
    assert failures(good(), strict) == {}


def test_the_document_is_that_of_the_contract(strict: PrepareParams) -> None:
    document = validate(good(), CLASSES, strict).document()
    assert document["counts"] == {"found": 40, "train": 36, "held_out": 4, "quarantined": 0, "duplicates": 0,
                                  "near_duplicates": 0, "excluded": 0}  # fmt: skip
    assert document["success"] is True
    assert document["checks"]["num_images"] == {"success": True, "observed": 40, "wanted": "at least 10"}
    assert all(set(check) == {"success", "observed", "wanted"} for check in document["checks"].values())
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def quarantine(table: pd.DataFrame, rows: slice) -> pd.DataFrame:
    table.loc[rows, ["split", "index", "pixels_sha256", "width", "height"]] = None
    table.loc[rows, ["mean", "std", "neighbour_correlation"]] = float("nan")
    table.loc[rows, "state"], table.loc[rows, "reason"] = "quarantined", "damaged"
    return table


def changed(table: pd.DataFrame, rows: slice, **columns: Any) -> pd.DataFrame:
    for column, value in columns.items():
        table.loc[rows, column] = value
    return table


@pytest.mark.parametrize(("table", "wanted"), [
    (good(8), {"num_images": 8}),
    (quarantine(good(), slice(0, 4)), {"broken_share": 0.125}),
    (changed(good(), slice(0, 4), duplicate_of="0000.png"), {"duplicate_share": 0.125}),
    (changed(good(), slice(0, 4), std=0.0), {"blank_share": 0.125}),
    (changed(good(), slice(0, 4), neighbour_correlation=0.1), {"noise_share": 0.125}),
    (changed(good(), slice(4, 24), class_name="cat", label=0), {"class_ratio": 3.0}),
    (changed(good(), slice(None), split="train", index=range(40)), {"num_splits": 1}),
    (changed(good(), slice(0, 2), pixels_sha256="0" * 63 + "5"), {"images_in_both_splits": 2}),
    (changed(good(), slice(0, 0), index=1), {"images_with_the_same_index": 2}),
    (changed(good(), slice(0, 2), mean=255.5), {"means_out_of_range": 3}),
    (changed(good(), slice(0, 2), std=128.0), {"stds_out_of_range": 3}),
    (changed(good(), slice(3, 4), height=0), {"empty_images": 2}),
    (changed(good(), slice(3, 4), pixels_sha256=None), {"images_without_digest": 2}),
    (changed(quarantine(good(), slice(0, 1)), slice(0, 0), reason=None), {"quarantined_without_reason": 1}),
    (changed(good(), slice(3, 4), label=None), {"images_without_class": 2}),
    (changed(good(), slice(3, 4), label=2), {"labels_out_of_range": 2}),
])  # fmt: skip
def test_each_fault_fails_its_own_check(strict: PrepareParams, table: pd.DataFrame, wanted: dict[str, Any]) -> None:
    assert failures(table, strict) == wanted


def test_a_class_without_training_images_is_found(strict: PrepareParams) -> None:
    validation = validate(good(), (*CLASSES, "bird"), strict)
    assert validation.findings()[0].startswith(
        "classes_without_training_images: found 1, wanted 0\n  classes: bird (0)\n"
    )


def test_a_set_without_accepted_images_fails_its_checks_without_an_error(strict: PrepareParams) -> None:
    found = failures(quarantine(good(), slice(None)), strict)
    assert found["num_images"] == 0
    assert found["broken_share"] == 1.0


def test_without_classes_there_are_no_class_checks(strict: PrepareParams) -> None:
    table = good()
    table[["label", "class_name"]] = None
    validation = validate(table, None, strict)
    assert validation.success
    assert "class_ratio" not in validation.checks


def test_a_share_at_its_limit_passes_and_one_image_more_does_not() -> None:
    for num_broken in range(1001):
        limit = _mostly(num_broken / 1000)
        assert (1000 - num_broken) / 1000 >= limit
        assert (1000 - num_broken - 1) / 1000 < limit


def test_great_expectations_applies_the_limit_exactly(prepare_params: Make) -> None:
    table = changed(good(100), slice(0, 6), std=0.0)
    assert failures(table, prepare_params(max_blank_share=0.07)) == {}
    assert failures(table, prepare_params(max_blank_share=0.06)) == {"blank_share": 0.07}


def test_an_exception_inside_a_check_is_a_failed_result_with_its_message() -> None:
    check = Check("gone", "found", "count", "0", gxe.ExpectColumnValuesToNotBeNull(column="gone"))
    result = run_checks([check], {"found": good()})["gone"]
    assert result.success is False
    assert result.observed is None
    assert 'The column "gone" in BatchData does not exist' in str(result.error)
    assert ValidationReport({"gone": result}, {}).findings() == [f"gone: the check failed to run: {result.error}"]


def test_names_of_checks_are_unique(strict: PrepareParams) -> None:
    names = [check.name for check in suite(strict, 2)]
    assert len(names) == len(set(names))


def test_nothing_is_printed(strict: PrepareParams, capfd: pytest.CaptureFixture[str]) -> None:
    validate(good(), CLASSES, strict)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("table", "wanted"), [
    (quarantine(good(), slice(0, 4)), "  files: 0000.png: damaged, 0001.png: damaged, 0002.png: damaged, 0003.png: damaged, 0004.png: damaged\n"),
    (changed(good(), slice(0, 4), duplicate_of="0000.png"), "prepare.max_duplicate_share"),
    (changed(good(), slice(0, 4), std=0.0), "choose prepare.background, or raise prepare.max_blank_share"),
    (changed(good(), slice(4, 24), class_name="cat", label=0),
     "  classes: dog (10)\n  the largest is cat (30): add images to the small ones"),
    (changed(good(), slice(0, 2), pixels_sha256="0" * 63 + "5"), "  files: 0000.png, 0001.png, 0002.png, 0005.png\n"),
])  # fmt: skip
def test_a_failed_check_names_what_is_at_fault_and_what_to_do(
    strict: PrepareParams, table: pd.DataFrame, wanted: str
) -> None:
    (finding,) = validate(table, CLASSES, strict).findings()
    assert wanted in finding
