"""A condition on a challenger, and what the gate decides when all have been applied."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["accept", "reject", "undecided"]
"""The gate's outcomes: the model becomes champion, it does not, or the evidence is not enough to decide.

Only the first moves the champion. A person overrides the others by `foundry model promote`.
"""


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition on a challenger, and its outcome."""

    name: str
    passed: bool
    found: float | str | None
    wanted: str
    measured: bool = False
    """`found` is a time or a memory size: it varies a little from run to run."""
    leaves_open: bool = False
    """Not passed, it does not refuse the model: the evidence is not enough to tell, and a person may decide."""


def outcome_of(rules: Sequence[Rule]) -> Outcome:
    """`accept` if there are rules and all passed, `undecided` if those that did not leave the decision open."""
    failed = [rule for rule in rules if not rule.passed]
    if not rules or not all(rule.leaves_open for rule in failed):
        return "reject"
    return "undecided" if failed else "accept"
