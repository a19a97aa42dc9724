"""docs/forward-process.md is run, and what it says is printed must be printed."""

import doctest
import re
from pathlib import Path

import pytest

DOC = Path(__file__).parents[1] / "docs" / "forward-process.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", DOC.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run(text: str) -> doctest.TestResults:
    test = doctest.DocTestParser().get_doctest(text, {}, DOC.name, str(DOC), 0)
    return doctest.DocTestRunner(verbose=False).run(test)


def test_every_line_of_the_walk_prints_what_the_page_says() -> None:
    result = run("\n".join(BLOCKS))
    assert result.failed == 0
    assert result.attempted > 40


@pytest.mark.parametrize("number", ["72.83", "96.87", "176.78", "128.69", "1.8708"])
def test_the_numbers_of_the_worked_example_are_on_the_page_and_checked(number: str) -> None:
    wrong = number[:-1] + str((int(number[-1]) + 1) % 10)
    by_hand = "\n".join(BLOCKS[:3])
    assert run(by_hand).failed == 0
    assert run(by_hand.replace(number, wrong)).failed == 1
