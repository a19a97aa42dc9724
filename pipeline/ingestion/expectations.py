"""The checks of a manifest, run by Great Expectations before anything is trained on the images.

Thresholds come from params.yaml; the other checks hold what later stages rely on. No other module imports Great
Expectations, and only the stage `prepare` imports this one: the import takes two to three seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal

import great_expectations as gx
import pandas as pd
from great_expectations.expectations import (
    ExpectColumnMaxToBeBetween,
    ExpectColumnUniqueValueCountToBeBetween,
    ExpectColumnValuesToBeBetween,
    ExpectColumnValuesToBeInSet,
    ExpectColumnValuesToBeNull,
    ExpectColumnValuesToBeUnique,
    ExpectColumnValuesToNotBeNull,
    ExpectCompoundColumnsToBeUnique,
    ExpectTableRowCountToBeBetween,
)

from pipeline.ingestion.culprits import culprits
from pipeline.ingestion.validation import ExpectationResult, ValidationReport
from pipeline.params import PrepareParams
from pipeline.progress import waiting

NOISE_CORRELATION = 0.2
"""An image counts as noise if the correlation of neighbouring pixels is lower. Measured: below .16 for uniform noise, also after
downsizing; above .25 for every image of Fashion-MNIST, scikit-learn's digits and crops of its photographs."""


CHECKED = (
    "split", "index", "label", "class_name", "width", "height", "mean", "std", "neighbour_correlation",
    "pixels_sha256", "duplicate_of", "near_duplicate_of",
)  # fmt: skip
"""Columns of accepted images that are checked or counted."""


@dataclass(frozen=True, slots=True)
class Check:
    """A named expectation about a table of `tables_of`."""

    name: str
    table: str
    observed: Literal["value", "share", "count"]
    """What the result reports: the tested value, or the share or number of rows that violate the expectation."""
    wanted: str
    expectation: Any


def suite(params: PrepareParams, num_classes: int) -> list[Check]:
    """Return every check in the order of the report; `num_classes` is 0 where images have no classes."""
    num_images, ratio, last_label = params.min_num_images, params.max_class_ratio, num_classes - 1
    # fmt: off
    class_checks = [
        Check("class_ratio", "classes", "value", f"at most {ratio}",
              ExpectColumnMaxToBeBetween(column="ratio", max_value=ratio)),
        _none("classes_without_training_images", "classes", ExpectColumnValuesToBeBetween(column="num_train", min_value=1)),
        _none("images_without_class", "accepted", ExpectColumnValuesToNotBeNull(column="label")),
        _in_range("labels_out_of_range", "label", 0, last_label),
    ]
    return [
        Check("num_images", "accepted", "value", f"at least {num_images}",
              ExpectTableRowCountToBeBetween(min_value=num_images)),
        _few("broken_share", "found", params.max_broken_share,
             ExpectColumnValuesToBeInSet, column="state", value_set=["accepted"]),
        _few("duplicate_share", "accepted", params.max_duplicate_share, ExpectColumnValuesToBeNull, column="duplicate_of"),
        _few("blank_share", "accepted", params.max_blank_share,
             ExpectColumnValuesToBeBetween, column="std", min_value=0, strict_min=True),
        _few("noise_share", "accepted", params.max_noise_share,
             ExpectColumnValuesToBeBetween, column="neighbour_correlation", min_value=NOISE_CORRELATION),
        *(class_checks if num_classes else []),
        Check("num_splits", "accepted", "value", "2: train and held_out",
              ExpectColumnUniqueValueCountToBeBetween(column="split", min_value=2, max_value=2)),
        _none("images_in_both_splits", "contents", ExpectColumnValuesToBeUnique(column="pixels_sha256")),
        _none("images_with_the_same_index", "accepted", ExpectCompoundColumnsToBeUnique(column_list=["split", "index"])),
        _in_range("means_out_of_range", "mean", 0, 255),
        _in_range("stds_out_of_range", "std", 0, 127.5),
        _none("empty_images", "accepted", ExpectColumnValuesToBeBetween(column="smaller_side", min_value=1)),
        _none("images_without_digest", "accepted", ExpectColumnValuesToNotBeNull(column="pixels_sha256")),
        _none("quarantined_without_reason", "quarantined", ExpectColumnValuesToNotBeNull(column="reason")),
    ]
    # fmt: on


def _none(name: str, table: str, expectation: Any) -> Check:
    """No row of `table` may violate the expectation."""
    return Check(name, table, "count", "0", expectation)


def _in_range(name: str, column: str, low: float, high: float) -> Check:
    """No accepted image may have a value outside of `low` … `high`."""
    expectation = ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high)
    return Check(name, "accepted", "count", f"0 outside of {low} … {high}", expectation)


def _few(name: str, table: str, max_share: float, expectation: Any, **arguments: Any) -> Check:
    """At most a share of the rows of `table` may violate the expectation."""
    return Check(name, table, "share", f"at most {max_share}", expectation(**arguments, mostly=_mostly(max_share)))


def _mostly(max_share: float) -> float:
    """Return 1 - max_share, rounded once: 1 - 0.07 in floats would reject, or let pass, an image too many."""
    return float(1 - Decimal(str(max_share)))


def tables_of(manifest: pd.DataFrame, class_names: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return the tables that the checks are about: selected rows of the manifest, its classes and its distinct images."""
    # Only what is checked: GX holds all tables at once.
    accepted = manifest.loc[manifest["state"] == "accepted", list(CHECKED)]
    return {
        "found": manifest.loc[manifest["state"] != "excluded", ["state"]],
        "accepted": accepted.assign(smaller_side=accepted[["width", "height"]].min(axis=1)),
        "quarantined": manifest.loc[manifest["state"] == "quarantined", ["reason"]],
        "contents": accepted[["split", "pixels_sha256"]].drop_duplicates(),
        "classes": _class_counts(accepted, class_names),
    }


def _class_counts(accepted: pd.DataFrame, class_names: Sequence[str]) -> pd.DataFrame:
    """Return one row per class: `num_images`, `num_train`, and `ratio`, the size of the largest class over this one's."""

    def counts(rows: pd.DataFrame) -> "pd.Series[int]":
        return rows["class_name"].value_counts().reindex(list(class_names), fill_value=0)

    num_images = counts(accepted)
    return pd.DataFrame(
        {
            "num_images": num_images.to_numpy(),
            "num_train": counts(accepted[accepted["split"] == "train"]).to_numpy(),
            "ratio": (num_images.max() / num_images.where(num_images > 0)).to_numpy(),
        }
    )


def validate(manifest: pd.DataFrame, class_names: Sequence[str] | None, params: PrepareParams) -> ValidationReport:
    """Run all checks on a manifest of `build_manifest`; writes nothing."""
    tables = tables_of(manifest, class_names or ())
    accepted = tables["accepted"]
    counts = {
        "found": len(manifest),
        "train": int((accepted["split"] == "train").sum()),
        "held_out": int((accepted["split"] == "held_out").sum()),
        "quarantined": len(tables["quarantined"]),
        "duplicates": int(accepted["duplicate_of"].notna().sum()),
        "near_duplicates": int(accepted["near_duplicate_of"].notna().sum() - accepted["duplicate_of"].notna().sum()),
        "excluded": int((manifest["state"] == "excluded").sum()),
    }
    checks = run_checks(suite(params, len(class_names or ())), tables)
    for name, result in checks.items():
        found = None if result.success else culprits(name, manifest, class_names or (), params)
        if found is not None:
            checks[name] = replace(result, remedy=found.remedy, classes=found.classes, files=found.files)
    return ValidationReport(checks, counts)


def run_checks(checks: Sequence[Check], tables: Mapping[str, pd.DataFrame]) -> dict[str, ExpectationResult]:
    """Run each check on its table; results by name."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("manifest")
    batches = {
        name: source.add_dataframe_asset(name)
        .add_batch_definition_whole_dataframe(name)
        .get_batch({"dataframe": table})
        for name, table in tables.items()
    }
    with waiting("checks"):
        return {
            check.name: _result(check, batches[check.table].validate(check.expectation).to_json_dict())
            for check in checks
        }


def _result(check: Check, outcome: dict[str, Any]) -> ExpectationResult:
    error = _error(outcome["exception_info"])
    if error is not None:
        return ExpectationResult(success=False, observed=None, wanted=check.wanted, error=error)
    result = outcome["result"]
    observed = result["observed_value"] if check.observed == "value" else result["unexpected_count"]
    if check.observed == "share":
        observed /= max(result["element_count"], 1)
    rounded = round(observed, 6) if isinstance(observed, float) else observed
    return ExpectationResult(success=outcome["success"], observed=rounded, wanted=check.wanted)


def _error(info: dict[str, Any]) -> str | None:
    """Return the message of an exception; GX has one record for the expectation, or one for each of its metrics."""
    for record in [info] if "raised_exception" in info else info.values():
        if record["raised_exception"]:
            return " ".join(str(record["exception_message"]).split())
    return None
