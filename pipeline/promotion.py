"""Which model is champion: pure functions that decide; nothing here reads, writes or asks a registry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KID, KID_STANDARD_ERROR = "evaluate/kid", "evaluate/kid_standard_error"


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition that a challenger must meet."""

    name: str
    passed: bool
    found: float | str | None
    wanted: str


def rules(challenger: Mapping[str, float], champion: Mapping[str, float] | None) -> list[Rule]:
    """Judge a challenger's metrics against the champion's, or against nothing where there is no champion."""
    return [
        _kid_is_known(challenger),
        _there_is_no_champion() if champion is None else _kid_is_lower(challenger, champion),
    ]


def is_accepted(judged: Sequence[Rule]) -> bool:
    """All rules are met, and there are some."""
    return bool(judged) and all(rule.passed for rule in judged)


def reason(judged: Sequence[Rule]) -> str:
    """The rules that failed, or all where none did, in one line."""
    failed = [rule for rule in judged if not rule.passed]
    return "; ".join(f"{rule.name}: found {rule.found}, wanted {rule.wanted}" for rule in failed or judged)


def aliases_after(before: Mapping[str, str], version: str, *, accepted: bool) -> dict[str, str | None]:
    """Who is called what, from now on: None takes the alias away.

    A winner pushes the champion to `previous`, and there is no challenger any more; a loser is the challenger.
    """
    if not accepted:
        return {"challenger": version}
    previous = before.get("champion", before.get("previous"))
    return {"previous": previous, "challenger": None, "champion": version}


def _kid_is_known(challenger: Mapping[str, float]) -> Rule:
    kid = challenger.get(KID, math.nan)
    passed = math.isfinite(kid)
    return Rule("kid_is_known", passed, kid if passed else str(kid), f"a finite {KID}")


def _there_is_no_champion() -> Rule:
    return Rule("champion", passed=True, found=None, wanted="no champion, or a worse one")


def _kid_is_lower(challenger: Mapping[str, float], champion: Mapping[str, float]) -> Rule:
    """KID is better by more than could be chance: d > sqrt(s_1^2 + s_2^2)."""
    ours, theirs = challenger.get(KID, math.nan), champion.get(KID, math.nan)
    error = math.hypot(challenger.get(KID_STANDARD_ERROR, math.nan), champion.get(KID_STANDARD_ERROR, math.nan))
    wanted = f"below {theirs - error:.6g}: the champion's {theirs:.6g} less {error:.6g}, the standard error of both"
    return Rule("kid_is_lower", ours < theirs - error, ours if math.isfinite(ours) else str(ours), wanted)
