from pathlib import Path

import pytest

from pipeline.artefacts.files import write_json
from pipeline.errors import ArtefactError, CheckFailedError
from pipeline.ingestion.validation import ExpectationResult, ValidationReport
from tests.command_line import foundry

PASSED = ExpectationResult(success=True, observed=70000, wanted="at least 1000")
FAILED = ExpectationResult(success=False, observed=0.0125, wanted="at most 0.01")
BROKEN = ExpectationResult(success=False, observed=None, wanted="0", error="no such column")


def write(folder: Path, **checks: ExpectationResult) -> Path:
    write_json(folder / "validation.json", ValidationReport(checks, {"found": 70000, "quarantined": 3}).document())
    return folder


def test_checks_are_printed_as_a_table_with_counts_and_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foundry("data", "report", "--prepared", write(tmp_path, num_images=PASSED))
    assert capsys.readouterr().out.splitlines() == [
        "check       found   wanted         passed",
        "num_images  70,000  at least 1000  yes",
        "",
        "images: 70,000 found, 3 quarantined",
        f"report: {tmp_path / 'report.html'}",
    ]


def test_failed_checks_come_first_and_end_the_command_with_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, blank_share=PASSED, broken_share=FAILED, empty_images=BROKEN)
    with pytest.raises(CheckFailedError, match="2 of 3 checks failed") as failure:
        foundry("data", "report", "--prepared", tmp_path)
    assert failure.value.exit_code == 3
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:4]]
    assert [(row[0], row[-1]) for row in rows] == [
        ("broken_share", "NO"),
        ("empty_images", "NO"),
        ("blank_share", "yes"),
    ]
    assert rows[0][1:-1] == ["0.0125", "at", "most", "0.01"]
    assert rows[1][1:-1] == ["no", "such", "column", "0"]


@pytest.mark.parametrize(("content", "message"), [
    (None, "validation.json: not found; run the stage `prepare`"),
    ("{}", "validation.json: not a report of the stage `prepare`"),
    ('{"checks": {"a": {"passed": true}}, "counts": {}}', "validation.json: not a report of the stage `prepare`"),
])  # fmt: skip
def test_a_missing_or_foreign_validation_json_is_rejected(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "validation.json").write_text(content)
    with pytest.raises(ArtefactError, match=message):
        foundry("data", "report", "--prepared", tmp_path)
