"""docs/contracts.md says what the code does."""

import re
from pathlib import Path
from typing import get_args

import click
import pytest

from pipeline import cli
from pipeline.artefacts.model import FORMAT
from pipeline.errors import ArtefactError, CheckFailedError, FoundryError
from pipeline.params import Betas, Density
from pipeline.training.journal import COLUMNS
from tests.training.test_loop import SMALL, _training

ROOT = Path(__file__).parents[1]
CONTRACTS = (ROOT / "docs" / "contracts.md").read_text()
COMMANDS = re.findall(r"^\| `foundry ([^`]+)` \|", CONTRACTS, re.MULTILINE)


def _section(title: str) -> str:
    return CONTRACTS.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def _command(row: str) -> tuple[click.Command, str]:
    """The command that a row of the table begins with, and the rest of the row."""
    name, _, rest = row.partition(" ")
    command = cli.foundry.commands[name]
    if isinstance(command, click.Group):
        name, _, rest = rest.partition(" ")
        command = command.commands[name]
    return command, rest


def test_the_page_lists_every_command() -> None:
    listed = {_command(row)[0].callback for row in COMMANDS}
    groups = [command for command in cli.foundry.commands.values() if isinstance(command, click.Group)]
    single = [command for command in cli.foundry.commands.values() if command not in groups]
    everything = [*single, *(command for group in groups for command in group.commands.values())]
    assert [command.name for command in everything if not command.hidden and command.callback not in listed] == []


@pytest.mark.parametrize("row", COMMANDS)
def test_every_option_in_the_table_is_one_that_the_command_has(row: str) -> None:
    command, rest = _command(row)
    options = {name for parameter in command.params for name in parameter.opts}
    assert {word.strip("[]()") for word in rest.split() if word.strip("[(").startswith("--")} <= options


@pytest.mark.parametrize("error", [FoundryError, CheckFailedError, ArtefactError])
def test_every_exit_code_is_explained(error: type[FoundryError]) -> None:
    assert f"| {error.exit_code} |" in CONTRACTS


def test_the_numbers_that_params_may_leave_out_are_those_of_the_page() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", _section("params.yaml"), re.MULTILINE)
    listed = {
        kind: {name: float(value) for name, value in re.findall(r"`(\w+)` (\S+?),? ", f"{numbers} ")}
        for kind, numbers in rows
    }
    sections = [section for alternatives in (Betas, Density) for section in get_args(get_args(alternatives)[0])]
    defaults = {
        get_args(section.model_fields["kind"].annotation)[0]: {
            name: field.default for name, field in section.model_fields.items() if not field.is_required()
        }
        for section in sections
    }
    assert listed == {kind: numbers for kind, numbers in defaults.items() if numbers}


def test_the_columns_of_curves_are_the_journals() -> None:
    line = next(line for line in _section("data/model").splitlines() if line.startswith("| `curves.csv`"))
    assert tuple(re.findall(r"`([a-z_/]+)`", line.split("|")[2])) == COLUMNS


def test_the_format_number_is_the_artefacts() -> None:
    assert f'"format": {FORMAT},' in _section("data/model")


def test_the_names_of_snapshots_are_those_that_a_training_writes() -> None:
    line = next(line for line in _section("data/model").splitlines() if line.startswith("| `snapshots.safetensors`"))
    parts = re.findall(r"<(\w+)>", line)
    training = _training()
    for _ in training.steps():
        pass
    weights, last = training.weights(), str(training.num_steps)
    allowed = {
        "step": {"3", "5", "8", last},
        "width": {str(width) for width in SMALL.ema_widths},
        "weight": set(weights),
    }
    for name in training.snapshots:
        found = name.split("/")
        assert len(found) == len(parts)
        assert all(value in allowed[part] for part, value in zip(parts, found, strict=True)), name
    assert len(training.snapshots) == 4 * len(SMALL.ema_widths) * len(weights)
