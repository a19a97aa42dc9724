"""The project's prose is plain technical English: a dozen constructions that a reader stumbles over do not occur."""

import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

PATTERNS = {
    r"\b(?:is|are|was|were|be) had\b": "name who computes, finds or obtains it: 'is unavailable', 'cannot be determined'",
    r"\b(?:has|have|had) not(?=[.,;:)\"'])": "'has none', 'lacks', 'does not have'",
    r"\b(?:is|are|was|were|be|been) (?:told|said)\b": "'reports', 'returns', 'prints', 'specifies', or the passive of these",
    r"\b(?:tells (?:how|what|which|whether|of|its|nothing|quality)|says of)\b": "'reports', 'describes', 'states'",
    r"\b(?:a|an|one|two|row|rows|process|file|line|image|images|picture|pictures|thread|value|values|bytes|kilobyte)"
    r" an? (?:t|core|card|class|row|image|picture|step|line|process|shard|scale|tick|pixel|call|level|epoch|batch)\b": (
        "'one row per t', 'per core', 'per class'"
    ),
    r"\b(?:sampled|rounded|drawn|looks?|looked|behaves?|ordered|written) otherwise\b": "'differently'",
    r"\b(?:is|are|was|were|be) there already\b": "'already exists', 'is already running'",
    r"\bwhat (?:was|were|is|are) (?:noted|told|said|asked)\b": "a noun: 'the record', 'the request'",
    r"\bone wants\b": "name who wants it, or leave it out",
    r"\b(?:meets?|met) the (?:champion|challenger)\b": "'is compared with the champion'",
    r"\bby a script that was not kept\b": "commit the script, or leave out the figure",
    r"\bleft the numbers\b": "'diverged to NaN or infinity'",
}
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def prose_of_python(path: Path) -> Iterator[tuple[int, str]]:
    """Each comment, docstring and other string of a module, with its line number."""
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    with tokenize.open(path) as file:
        yield from (
            (token.start[0], token.string) for token in tokenize.generate_tokens(file.readline) if token.type in kinds
        )


def prose_of_markdown(path: Path) -> Iterator[tuple[int, str]]:
    """A whole page without its code, which keeps its line breaks."""
    text = FENCE.sub(lambda block: "\n" * block[0].count("\n"), path.read_text(encoding="utf-8"))
    yield 1, re.sub(r"`[^`\n]*`", "``", text)


def violations(root: Path) -> Iterator[str]:
    """`file:line: phrase: advice` for each phrase that one of the patterns matches."""
    modules = (path for room in ("pipeline", "service", "benchmarks") for path in (root / room).rglob("*.py"))
    pages = (*root.glob("*.md"), *(root / "docs").glob("*.md"), *(root / "benchmarks").rglob("*.md"))
    prose = (*((path, prose_of_python) for path in modules), *((path, prose_of_markdown) for path in pages))
    compiled = {re.compile(pattern.replace(" ", r"\s+"), re.IGNORECASE): advice for pattern, advice in PATTERNS.items()}
    for path, read in sorted(prose, key=lambda each: each[0]):
        for first_line, text in read(path):
            for pattern, advice in compiled.items():
                for match in pattern.finditer(text):
                    line = first_line + text.count("\n", 0, match.start())
                    yield f"{path.relative_to(root)}:{line}: {' '.join(match[0].split())!r}: {advice}"


def test_no_phrase_of_the_project_stops_a_reader(root: Path) -> None:
    found = list(violations(root))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "is_refused"),
    [
        ("The loss is had of the denoised image.", True),
        ("needs labels, which the data set\nhas not.", True),
        ("an error that has not been handled", False),
        ("the parquet has a row a t", True),
        ("60 images a second", False),
        ("The same model, sampled\notherwise.", True),
        ("Answers stay equal unless a header says otherwise.", False),
        ("`is had`", False),
    ],
)
def test_the_patterns_match_across_lines_and_spare_common_english(
    text: str, *, is_refused: bool, tmp_path: Path
) -> None:
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    assert bool(list(violations(tmp_path))) == is_refused
