"""docs/reliability.md and docs/scaling.md name tests for their claims: those tests are there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()
PAGES = PAGE + (ROOT / "docs" / "scaling.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGES)))


def _tests(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_every_test_that_the_pages_name_is_there(file: str, test: str) -> None:
    assert test in _tests(ROOT / file)


def test_every_fault_has_a_test() -> None:
    rows = [
        line
        for line in PAGE.splitlines()
        if line.startswith("| ") and not line.startswith(("| fault", "| claim", "|---"))
    ]
    assert len(rows) > 25
    assert [row for row in rows if "::test_" not in row] == []
