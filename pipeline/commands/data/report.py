"""Print the checks of the prepared data as a table (`foundry data report`)."""

import sys
from pathlib import Path

from pipeline.errors import CheckFailedError
from pipeline.ingestion.validation import ValidationReport


def main(prepared: Path) -> None:
    """Print results, counts and the path of the report.

    Raises:
        CheckFailedError: a check did not pass.
    """
    report = ValidationReport.read(prepared / "validation.json")
    rows = [("check", "found", "wanted", "passed")]
    for name, result in sorted(report.checks.items(), key=lambda item: (item[1].success, item[0])):
        found = result.error or ("nothing" if result.observed is None else f"{result.observed:,}")
        rows.append((name, found, result.wanted, "yes" if result.success else "NO"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    counts = ", ".join(f"{count:,} {name}" for name, count in report.counts.items())
    sys.stdout.write("\n".join([*lines, "", f"images: {counts}", f"report: {prepared / 'report.html'}", ""]))
    failed = len(report.findings())
    if failed:
        sys.stdout.write("\n".join(["", *report.findings(), ""]))
        raise CheckFailedError(f"{prepared}: {failed} of {len(report.checks)} checks failed")
