"""Every block of commands in the documentation names the tests that run them or the reason why none does, and parses."""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from dvc.cli.parser import get_main_parser

from pipeline.cli import foundry

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^(?:<!-- (?P<mark>[^\n]*) -->\n)?```\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = ("make", "foundry", "dvc", "python", "bentoml", "torchrun", "uv", "git", "docker", "curl")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@dataclass(frozen=True)
class Block:
    page: str
    mark: str | None
    lines: tuple[tuple[str, ...], ...]
    """The words of each command, without assignments before it."""

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.lines[0])}"


def blocks() -> Iterator[Block]:
    """The blocks that hold commands; other plain blocks are drawings and lists."""
    for page in PAGES:
        for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
            lines = tuple(filter(None, map(words, block["text"].replace("\\\n", " ").splitlines())))
            if lines:
                yield Block(page.name, block["mark"], lines)


def words(line: str) -> tuple[str, ...]:
    """The words of a command, with its program's bare name first; none for other lines and for drawings."""
    if "─" in line:
        return ()
    line = re.sub(r"\w+=\$\((.*)\)", r"\1", line.split(" | ", maxsplit=1)[0])
    try:
        found = shlex.split(line.replace("…", ""), comments=True)
    except ValueError:
        return ()
    while found and re.match(r"\w+=", found[0]):
        found = found[1:]
    program = found[0].removeprefix(".venv/bin/") if found else ""
    return (program, *found[1:]) if program in PROGRAMS else ()


BLOCKS = list(blocks())


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_names_its_tests_or_the_reason_why_it_has_none(block: Block) -> None:
    assert block.mark is not None, (
        "a comment `<!-- tested by FILE::TEST -->` or `<!-- not tested: REASON -->` is missing"
    )
    if block.mark.startswith("not tested: "):
        return
    named = block.mark.removeprefix("tested by ").split()
    assert named
    for each in named:
        file, test = each.split("::")
        assert test in {
            node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.FunctionDef)
        }


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_command_is_one_that_its_program_knows(block: Block) -> None:
    for program, *arguments in block.lines:
        match program:
            case "foundry":
                known_to_foundry(arguments)
            case "make":
                assert [each for each in arguments if "=" not in each and each not in TARGETS] == []
            case "dvc":
                get_main_parser().parse_args(arguments)
            case "python" if arguments[0] == "-m" and arguments[1].startswith("benchmarks."):
                assert (ROOT / f"{arguments[1].replace('.', '/')}.py").is_file()


def known_to_foundry(arguments: list[str]) -> None:
    """Parse a command and its options as click does, without calling it."""
    command: click.Command = foundry
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    if not isinstance(command, click.Group):
        command.make_context("", arguments)
