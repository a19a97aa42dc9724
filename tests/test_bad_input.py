"""Every command, started where it cannot work: it says so and ends, without a traceback and without leaving anything."""

import shutil
import subprocess
from pathlib import Path

import click
import pytest

from pipeline.errors import FoundryError
from tests.command_line import foundry
from tests.test_cli import commands

ROOT = Path(__file__).parents[1]
WORKS_ANYWHERE = {"data changed", "data fetch", "plots-template", "runs sync", "runs ui", "set"}
"""Commands that need no project, or that have nothing to do in an empty one."""
TRAINS = {"cost", "gpu-check", "pace", "trial", "verify"}
LOGS = {"prepare", "runs reconcile"}
"""Commands that write to the store before they know that they cannot work, and make it."""
NAMES = sorted(set(commands()) - WORKS_ANYWHERE - TRAINS - LOGS)


def least_arguments(command: click.Command) -> list[str]:
    """A value for each argument and option that a command demands: of its type, and of something that does not exist."""
    words = []
    for parameter in command.params:
        if parameter.required:
            value = parameter.type.choices[0] if isinstance(parameter.type, click.Choice) else "1"
            words += [parameter.opts[0], value] if isinstance(parameter, click.Option) else [value]
    return words


@pytest.fixture(params=["an empty folder", "a project that has never run"])
def nowhere(request: pytest.FixtureRequest, workspace: Path) -> Path:
    if request.param == "a project that has never run":
        shutil.copy(ROOT / "tests" / "params.yaml", "params.yaml")
        shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
        subprocess.run(["git", "init", "-q"], check=True)
    return workspace


@pytest.mark.parametrize("name", NAMES)
def test_a_command_that_cannot_work_here_says_so_and_makes_no_database(nowhere: Path, name: str) -> None:
    with pytest.raises((FoundryError, click.ClickException, OSError)) as caught:
        foundry(*name.split(), *least_arguments(commands()[name]))
    said = str(caught.value)
    assert said
    assert "Traceback" not in said
    assert list(nowhere.glob("mlflow*")) == []
