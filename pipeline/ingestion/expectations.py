"""What a manifest must fulfil before anything is trained on it: the suite, judged by Great Expectations.

Thresholds are params; the rest is what the stages downstream rely on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import great_expectations as gx
import pandas as pd
from great_expectations import expectations as gxe

from pipeline.params import PrepareParams


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the suite."""

    name: str
    table: str
    """Of `tables_of`."""
    observes: Literal["value", "share", "count"]
    """The value that the expectation looks at, or the share or the number of rows that break it."""
    expectation: Any
    wanted: str


def suite(params: PrepareParams, num_classes: int) -> list[Check]:
    """Every check, in the order of the report; `num_classes` is 0 where images have no classes."""
    return [
        Check(
            "num_images",
            "accepted",
            "value",
            gxe.ExpectTableRowCountToBeBetween(min_value=params.min_num_images),
            f"at least {params.min_num_images}",
        ),
        Check(
            "broken_share",
            "found",
            "share",
            gxe.ExpectColumnValuesToBeInSet(
                column="state", value_set=["accepted"], mostly=_all_but(params.max_broken_share)
            ),
            f"at most {params.max_broken_share}",
        ),
        Check(
            "duplicate_share",
            "accepted",
            "share",
            gxe.ExpectColumnValuesToBeNull(column="duplicate_of", mostly=_all_but(params.max_duplicate_share)),
            f"at most {params.max_duplicate_share}",
        ),
        Check(
            "blank_share",
            "accepted",
            "share",
            gxe.ExpectColumnValuesToBeBetween(
                column="std", min_value=0, strict_min=True, mostly=_all_but(params.max_blank_share)
            ),
            f"at most {params.max_blank_share}",
        ),
        *(_class_checks(params, num_classes) if num_classes else []),
        Check(
            "num_splits",
            "accepted",
            "value",
            gxe.ExpectColumnUniqueValueCountToBeBetween(column="split", min_value=2, max_value=2),
            "2: train and held_out",
        ),
        Check(
            "images_in_both_splits", "contents", "count", gxe.ExpectColumnValuesToBeUnique(column="pixels_sha256"), "0"
        ),
        Check(
            "images_with_the_same_index",
            "accepted",
            "count",
            gxe.ExpectCompoundColumnsToBeUnique(column_list=["split", "index"]),
            "0",
        ),
        Check(
            "means_out_of_range",
            "accepted",
            "count",
            gxe.ExpectColumnValuesToBeBetween(column="mean", min_value=0, max_value=255),
            "0 outside of 0 … 255",
        ),
        Check(
            "stds_out_of_range",
            "accepted",
            "count",
            gxe.ExpectColumnValuesToBeBetween(column="std", min_value=0, max_value=127.5),
            "0 outside of 0 … 127.5",
        ),
        Check(
            "empty_images",
            "accepted",
            "count",
            gxe.ExpectColumnValuesToBeBetween(column="smaller_side", min_value=1),
            "0",
        ),
        Check(
            "images_without_digest", "accepted", "count", gxe.ExpectColumnValuesToNotBeNull(column="pixels_sha256"), "0"
        ),
        Check(
            "quarantined_without_reason",
            "quarantined",
            "count",
            gxe.ExpectColumnValuesToNotBeNull(column="reason"),
            "0",
        ),
    ]


def _class_checks(params: PrepareParams, num_classes: int) -> list[Check]:
    return [
        Check(
            "class_ratio",
            "classes",
            "value",
            gxe.ExpectColumnMaxToBeBetween(column="ratio", max_value=params.max_class_ratio),
            f"at most {params.max_class_ratio}",
        ),
        Check(
            "classes_without_training_images",
            "classes",
            "count",
            gxe.ExpectColumnValuesToBeBetween(column="num_train", min_value=1),
            "0",
        ),
        Check("images_without_class", "accepted", "count", gxe.ExpectColumnValuesToNotBeNull(column="label"), "0"),
        Check(
            "labels_out_of_range",
            "accepted",
            "count",
            gxe.ExpectColumnValuesToBeBetween(column="label", min_value=0, max_value=num_classes - 1),
            f"0 outside of 0 … {num_classes - 1}",
        ),
    ]


def _all_but(share: float) -> float:
    """1 - share, rounded once: 1 - 0.07 in floats would refuse, or let pass, an image too many."""
    return float(1 - Decimal(str(share)))


def tables_of(manifest: pd.DataFrame, class_names: Sequence[str]) -> dict[str, pd.DataFrame]:
    """What the checks look at: rows of the manifest, and its classes and contents."""
    accepted = manifest[manifest["state"] == "accepted"]
    return {
        "found": manifest,
        "accepted": accepted.assign(smaller_side=accepted[["width", "height"]].min(axis=1)),
        "quarantined": manifest[manifest["state"] != "accepted"],
        "contents": accepted[["split", "pixels_sha256"]].drop_duplicates(),
        "classes": class_counts(accepted, class_names),
    }


def class_counts(accepted: pd.DataFrame, class_names: Sequence[str]) -> pd.DataFrame:
    """One row a class: `class_name`, `num_images`, `num_train`, and `ratio`, the largest class over this one."""

    def counts(rows: pd.DataFrame) -> pd.Series[int]:
        return rows["class_name"].value_counts().reindex(list(class_names), fill_value=0)

    num_images = counts(accepted)
    return pd.DataFrame(
        {
            "class_name": list(class_names),
            "num_images": num_images.to_numpy(),
            "num_train": counts(accepted[accepted["split"] == "train"]).to_numpy(),
            "ratio": (num_images.max() / num_images.where(num_images > 0)).to_numpy(),
        }
    )


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a check came out."""

    success: bool
    observed: float | None
    wanted: str
    error: str | None = None
    """Of the check itself: it could not be judged."""

    def document(self) -> dict[str, Any]:
        """As JSON; `error` only where there is one."""
        document = {"success": self.success, "observed": self.observed, "wanted": self.wanted}
        return document if self.error is None else {**document, "error": self.error}


@dataclass(frozen=True, slots=True)
class Validation:
    """validation.json."""

    checks: Mapping[str, Judgement]
    counts: Mapping[str, int]

    @property
    def success(self) -> bool:
        """Whether every check passed."""
        return all(judgement.success for judgement in self.checks.values())

    def document(self) -> dict[str, Any]:
        """As JSON."""
        checks = {name: judgement.document() for name, judgement in self.checks.items()}
        return {"success": self.success, "checks": checks, "counts": dict(self.counts)}

    def findings(self) -> list[str]:
        """A line for each check that did not pass."""
        return [
            f"{name}: could not be judged: {judgement.error}"
            if judgement.error
            else f"{name}: found {judgement.observed}, wanted {judgement.wanted}"
            for name, judgement in self.checks.items()
            if not judgement.success
        ]


def validate(manifest: pd.DataFrame, class_names: Sequence[str] | None, params: PrepareParams) -> Validation:
    """Evaluator a manifest; nothing is written, and the same manifest is judged the same."""
    tables = tables_of(manifest, class_names or ())
    checks = judge(suite(params, len(class_names or ())), tables)
    accepted = tables["accepted"]
    counts = {
        "found": len(manifest),
        "train": int((accepted["split"] == "train").sum()),
        "held_out": int((accepted["split"] == "held_out").sum()),
        "quarantined": len(tables["quarantined"]),
        "duplicates": int(accepted["duplicate_of"].notna().sum()),
    }
    return Validation(checks, counts)


def judge(checks: Sequence[Check], tables: Mapping[str, pd.DataFrame]) -> dict[str, Judgement]:
    """Run the checks, each on its table."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("manifest")
    batches = {
        name: source.add_dataframe_asset(name)
        .add_batch_definition_whole_dataframe(name)
        .get_batch({"dataframe": table})
        for name, table in tables.items()
    }
    return {
        check.name: _judgement(check, batches[check.table].validate(check.expectation).to_json_dict())
        for check in checks
    }


def _judgement(check: Check, outcome: dict[str, Any]) -> Judgement:
    error = _error(outcome["exception_info"])
    if error is not None:
        return Judgement(success=False, observed=None, wanted=check.wanted, error=error)
    result = outcome["result"]
    observed = result["observed_value"] if check.observes == "value" else result["unexpected_count"]
    if check.observes == "share":
        observed /= max(result["element_count"], 1)
    shown = round(observed, 6) if isinstance(observed, float) else observed
    return Judgement(success=outcome["success"], observed=shown, wanted=check.wanted)


def _error(info: dict[str, Any]) -> str | None:
    """The message of an exception inside of an expectation: one record, or one for each of its metrics."""
    for record in [info] if "raised_exception" in info else info.values():
        if record["raised_exception"]:
            return " ".join(str(record["exception_message"]).split())
    return None
