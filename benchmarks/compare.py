"""Whether a change made anything slower: the speeds of two commits, measured in turn on this machine.

    python -m benchmarks.compare BASE [--new COMMIT] [--pairs 9] [--out FILE]

Each commit is checked out beside the other and runs its own `benchmarks.speed` (commits before it have none). One run of
each is a pair, and the ratio within a pair hardly depends on how fast the machine is just now. The interval is that of the
median over pairs by order statistics, which assumes nothing about the distribution. Fails if the whole interval of a ratio
lies above 1.05.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks.protocol import ROOT, checked_out, finish, log_progress, parser, python, run_command, table
from pipeline import cli
from pipeline.errors import CheckFailedError, FoundryError

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIDENCE, TOLERANCE = 0.95, 0.05
NUM_PAIRS = 9
"""The interval of the median then leaves out the lowest and the highest ratio, with a confidence of 96 %."""

Speeds = dict[str, float]
"""Seconds by name of the work."""


@dataclass(frozen=True, slots=True)
class Change:
    """The ratio of the seconds of two commits for one kind of work."""

    work: str
    base_seconds: float
    ratio: float
    """Median over pairs of new / base."""
    low: float
    high: float

    @property
    def is_slower(self) -> bool:
        return self.low > 1 + TOLERANCE

    @property
    def verdict(self) -> str:
        if self.is_slower:
            return "slower"
        if self.high < 1 - TOLERANCE:
            return "faster"
        return "within 5 %" if self.low > 1 - TOLERANCE and self.high < 1 + TOLERANCE else "no clear difference"


def main() -> None:
    made = parser("compare", __doc__)
    made.add_argument("base", metavar="BASE", help="commit to compare with")
    made.add_argument("--new", metavar="COMMIT", help="default: the working tree as it is")
    made.add_argument("--pairs", type=int, default=NUM_PAIRS, help="default %(default)s")
    arguments = made.parse_args()
    num_pairs = 1 if arguments.quick else arguments.pairs
    pairs = measure_pairs(ROOT, arguments.base, arguments.new, num_pairs, quick=arguments.quick)
    changes = compare(pairs)
    document = {
        "base": arguments.base,
        "new": arguments.new or "working tree",
        "pairs": pairs,
        "changes": [asdict(change) | {"verdict": change.verdict} for change in changes],
    }
    finish(arguments, document, report(changes))
    refuse_slower(changes)


def measure_pairs(
    project: Path, base: str, new: str | None, num_pairs: int, *, quick: bool
) -> list[tuple[Speeds, Speeds]]:
    """The speeds of both commits, `num_pairs` times; new is None for the working tree.

    Raises:
        FoundryError: a commit is unknown, or has no `benchmarks.speed`, or that fails.
    """
    with ExitStack() as stack:
        folders = [stack.enter_context(_checkout(project, base)), project]
        if new is not None:
            folders[1] = stack.enter_context(_checkout(project, new))
        pairs = []
        for number in range(num_pairs):
            # Neither is always the first.
            order = (0, 1) if number % 2 == 0 else (1, 0)
            found = {place: _speeds(folders[place], quick=quick) for place in order}
            pairs.append((found[0], found[1]))
            log_progress(f"pair {number + 1} of {num_pairs}")
    return pairs


@contextmanager
def _checkout(project: Path, commit: str) -> Iterator[Path]:
    with checked_out(project, commit) as place:
        if not (place / "benchmarks" / "speed.py").exists():
            raise FoundryError(f"{commit}: has no benchmarks/speed.py; commits from that file on can be compared")
        yield place


def _speeds(folder: Path, *, quick: bool) -> Speeds:
    with TemporaryDirectory() as scratch:
        out = Path(scratch) / "speed.json"
        options = ["--quick"] if quick else []
        command = python("-m", "benchmarks.speed", "--out", str(out), *options)
        run_command(command, folder=folder, environment={"PYTHONPATH": str(folder)})
        speeds: Speeds = json.loads(out.read_text(encoding="utf-8"))["seconds"]
    return speeds


def compare(pairs: Sequence[tuple[Speeds, Speeds]]) -> list[Change]:
    """The change of each kind of work that both commits measure."""
    works = [work for work in pairs[0][0] if work in pairs[0][1]]
    return [_change(work, [(base[work], new[work]) for base, new in pairs]) for work in works]


def _change(work: str, seconds: Sequence[tuple[float, float]]) -> Change:
    ratios = [new / base for base, new in seconds]
    return Change(work, median(base for base, _ in seconds), median(ratios), *median_interval(ratios))


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """An interval that holds the median with CONFIDENCE, or the range of the values if there are fewer than six."""
    n, ordered = len(values), sorted(values)
    # The k-th lowest is above the median if fewer than k of n values are below it, each with probability 1/2.
    cut = 0
    while 2 * sum(math.comb(n, below) for below in range(cut + 2)) / 2**n <= 1 - CONFIDENCE:
        cut += 1
    return ordered[cut], ordered[n - 1 - cut]


def report(changes: Sequence[Change]) -> str:
    """A Markdown table."""
    rows = [
        [
            change.work,
            change.base_seconds,
            f"{change.ratio:.3f}",
            f"{change.low:.3f} to {change.high:.3f}",
            change.verdict,
        ]
        for change in changes
    ]
    return table(["work", "base, s", "new / base", "interval", ""], rows)


def refuse_slower(changes: Sequence[Change]) -> None:
    """Fail if any work has become slower.

    Raises:
        CheckFailedError: the whole interval of a ratio lies above 1 + TOLERANCE.
    """
    slower = [f"{change.work} takes {change.ratio:.2f} times as long" for change in changes if change.is_slower]
    if slower:
        raise CheckFailedError("; ".join(slower))


if __name__ == "__main__":
    cli.run(main)
