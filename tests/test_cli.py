"""The command line: it answers at once, and each command's function takes just the options that are declared for it."""

import inspect
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import click
import pytest

from pipeline import cli
from pipeline.errors import CheckFailedError, FoundryError

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "numpy", "pandas", "mlflow", "great_expectations", "matplotlib", "sklearn", "bentoml", "pydantic"}


def commands() -> dict[str, click.Command]:
    """Every command by the words that call it."""
    found: dict[str, click.Command] = {}
    for name, command in cli.foundry.commands.items():
        if isinstance(command, click.Group):
            found |= {f"{name} {each}": below for each, below in command.commands.items()}
        else:
            found[name] = command
    return found


def _target(command: click.Command) -> str | None:
    """`module:function` of a declared command; None of one that is a function of cli.py."""
    assert command.callback is not None
    return inspect.getclosurevars(command.callback).nonlocals.get("target")


@pytest.mark.parametrize("name", [name for name, command in commands().items() if _target(command)])
def test_a_function_takes_just_the_options_of_its_command(name: str) -> None:
    module, function = str(_target(commands()[name])).split(":")
    called = getattr(import_module(module), function)
    options = {str(parameter.name): None for parameter in commands()[name].params}
    inspect.signature(called).bind(**options)
    parameters = inspect.signature(called).parameters.values()
    named = {each.name for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD}
    # The keys of a typed dictionary that the function unpacks (PEP 692), which `bind` does not check.
    for each in parameters:
        for unpacked in get_args(each.annotation) if each.kind is inspect.Parameter.VAR_KEYWORD else ():
            assert set(options) == named | set(unpacked.__annotations__)


def test_the_index_lists_every_command_and_nothing_heavy_is_loaded() -> None:
    code = (
        "import sys\nfrom pipeline import cli\ncli.main(['--help'])\n"
        f"print(sorted({HEAVY} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = [line.strip() for line in done.stdout.splitlines()]
    for name, command in commands().items():
        assert command.hidden or any(line.startswith(f"{name} ") for line in listed), name
    assert done.stderr == "[]\n"


def test_a_crash_in_a_library_says_where_it_happened_in_the_processes_of_a_command_too() -> None:
    crash = "import ctypes; ctypes.string_at(0)"
    code = (
        "import subprocess, sys\nfrom pipeline import cli\nsys.argv = ['foundry', '--version']\ncli.main()\n"
        f"subprocess.run([sys.executable, '-c', {crash!r}])\n{crash}"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode < 0
    assert done.stderr.count("Fatal Python error: Segmentation fault") == 2
    assert done.stderr.count("string_at") >= 2


@pytest.mark.parametrize("name", commands())
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main([*name.split(), "--help"])
    assert f"Usage: foundry {name} " in capsys.readouterr().out


def test_no_name_is_a_command_and_a_group() -> None:
    groups = {name.split()[0] for name in commands() if " " in name}
    assert groups & {name.split()[-1] for name in commands()} == set()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FoundryError("params.yaml: wrong"), 2),
        (CheckFailedError("too few images"), 3),
        (OSError(28, "No space left on device", "data/out"), 2),
        (click.UsageError("No such option"), 2),
        (click.Abort(), 130),
    ],
)
def test_an_error_of_the_input_ends_with_its_exit_code_and_without_a_traceback(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        cli.run(fail)
    assert stop.value.code == code
    assert "Traceback" not in capsys.readouterr().err


def options_of(kind: type[click.ParamType]) -> list[tuple[str, str]]:
    """Command and option of every option that takes a number of this kind."""
    found = ((name, each) for name, command in commands().items() for each in command.params)
    return [(name, option.opts[0]) for name, option in found if isinstance(option.type, kind) and option.nargs == 1]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "x"])
@pytest.mark.parametrize(("name", "option"), options_of(click.types.FloatParamType))
def test_an_option_takes_finite_numbers_alone(
    name: str, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([*name.split(), option, value])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert f"Invalid value for '{option}'" in said
    assert value in said.splitlines()[-1]


@pytest.mark.parametrize(("name", "option"), options_of(click.types.IntParamType))
def test_every_whole_number_of_an_option_has_a_range(name: str, option: str) -> None:
    [found] = [each for each in commands()[name].params if option in each.opts]
    assert isinstance(found.type, click.IntRange)
    assert found.type.min is not None


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--version"])
    assert version("diffusion-foundry") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "parameter"),
    [
        (["model", "trace", ""], "'PICTURE'"),
        (["prepare", "--raw", ""], "'--raw'"),
        (["data", "drift", ""], "'NEW...'"),
        (["adopt", "x", "--name", " "], "'--name'"),
        (["sample", "--model", "x", "--num-images", "1", "--out", ""], "'--out'"),
        (["model", "promote", str(10**30), "--reason", "x"], "'VERSION'"),
    ],
)
def test_a_value_that_is_empty_or_too_large_is_refused_with_its_name(
    words: list[str], parameter: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert f"Invalid value for {parameter}" in capsys.readouterr().err


def test_a_picture_of_no_known_format_is_refused_before_it_is_drawn() -> None:
    with pytest.raises(FoundryError, match=r"--out: should end in .npz or .png or name a folder \(got .gif\)"):
        cli.foundry.main(["sample", "--model", "none", "--num-images", "1", "--out", "a.gif"], standalone_mode=False)
