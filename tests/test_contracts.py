"""docs/contracts.md says what the code does."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.artefacts.model import FORMAT
from pipeline.errors import ArtefactError, CheckFailedError, FoundryError
from pipeline.training.journal import COLUMNS

ROOT = Path(__file__).parents[1]
CONTRACTS = (ROOT / "docs" / "contracts.md").read_text()
COMMANDS = re.findall(r"^\| `(python -m pipeline\.[^`]+)` \|", CONTRACTS, re.MULTILINE)


def _section(title: str) -> str:
    return CONTRACTS.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_the_page_lists_commands() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_one_that_it_has(command: str) -> None:
    module, *rest = command.removeprefix("python -m ").split()
    shown = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for option in (word for word in rest if word.startswith("--")):
        assert option in shown


@pytest.mark.parametrize("error", [FoundryError, CheckFailedError, ArtefactError])
def test_every_exit_code_is_explained(error: type[FoundryError]) -> None:
    assert f"| {error.exit_code} |" in CONTRACTS


def test_the_columns_of_curves_are_the_journals() -> None:
    line = next(line for line in _section("data/model").splitlines() if line.startswith("| `curves.csv`"))
    assert tuple(re.findall(r"`([a-z_/]+)`", line.split("|")[2])) == COLUMNS


def test_the_format_number_is_the_artefacts() -> None:
    assert f'"format": {FORMAT},' in _section("data/model")
