"""Which model is champion: pure functions that decide; nothing here reads, draws or asks a registry."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.params import RegisterParams

KID = "evaluate/kid"
COPIES = {"near_copies": "near_copy_share", "shifted_near_copies": "near_copy_share_shifted"}
NUM_ERRORS = 2.0
"""Standard errors by which a share of pictures may be worse before that is no chance any more."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition that a challenger must meet."""

    name: str
    passed: bool
    found: float | str | None
    wanted: str
    measured: bool = False
    """What was found was timed or metered: another run finds a little more or less."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What a model has shown, alone in its process."""

    figures: Mapping[str, float]
    """As evaluate's, of the pictures that it drew for the trial."""
    num_shifted: int
    """How many of them were searched for shifted copies."""
    classes: tuple[str, ...]
    """It can draw; none where it knows no classes."""
    model_bytes: int
    batch_ms: float
    """One batch of 64 pictures with the sampler that it recommends: median."""
    peak_memory_mib: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two trials on the same held-out images, with the same seeds and as many pictures."""

    challenger: Trial
    champion: Trial
    kid_difference: float
    """The challenger's less the champion's."""
    kid_low: float
    kid_high: float
    latency_ratio: float
    """The challenger's time for a batch over the champion's, taken in turns: median."""
    data_is_new: bool
    """The challenger was trained on other images than the champion."""
    floor_error: float
    """Standard error of the KID of real images: what chance alone does."""


def first_rules(metrics: Mapping[str, float]) -> list[Rule]:
    """Evaluator a model where there is no champion, by its own evaluation."""
    return [_kid_is_known(metrics), Rule("champion", passed=True, found=None, wanted="no champion, or a worse one")]


def unlike_rules(metrics: Mapping[str, float], challenger: str, champion: str) -> list[Rule]:
    """Evaluator a model that draws other pictures than the champion: nothing can be compared."""
    wanted = f"the champion's {champion}; another kind of picture is another model: change register.model_name"
    return [_kid_is_known(metrics), Rule("same_pictures", passed=False, found=challenger, wanted=wanted)]


def rules(metrics: Mapping[str, float], comparison: Comparison, params: RegisterParams) -> list[Rule]:
    """Evaluator a challenger against the champion."""
    one, other = comparison.challenger, comparison.champion
    return [
        _kid_is_known(metrics),
        _kid(comparison, params),
        _classes_are_kept(one, other),
        _class_balance(one, other, params),
        *_no_more_copies(one, other),
        _ratio("model_size", one.model_bytes / other.model_bytes, params.max_size_ratio),
        _ratio("latency", comparison.latency_ratio, params.max_latency_ratio, measured=True),
        _ratio("memory", one.peak_memory_mib / other.peak_memory_mib, params.max_memory_ratio, measured=True),
    ]


def is_accepted(judged: Sequence[Rule]) -> bool:
    """All rules are met, and there are some."""
    return bool(judged) and all(rule.passed for rule in judged)


def reason(judged: Sequence[Rule]) -> str:
    """The rules that failed, or all where none did, in one line."""
    failed = [rule for rule in judged if not rule.passed]
    return "; ".join(f"{rule.name}: found {_short(rule.found)}, wanted {rule.wanted}" for rule in failed or judged)


def margin(comparison: Comparison, params: RegisterParams) -> float:
    """How much worse the KID may be: nothing, but where the data are new.

    Then a share of the champion's, or, where that is near 0, what chance does to the KID of real images.
    """
    if not comparison.data_is_new:
        return 0.0
    return max(params.max_kid_rise * comparison.champion.figures["kid"], comparison.floor_error)


def aliases_after(before: Mapping[str, str], version: str, *, accepted: bool) -> dict[str, str | None]:
    """Who is called what, from now on: None takes the alias away.

    A winner pushes the champion to `previous`, and there is no challenger any more; a loser is the challenger.
    """
    if not accepted:
        return {"challenger": version}
    previous = before.get("champion", before.get("previous"))
    return {"previous": previous, "challenger": None, "champion": version}


def aliases_after_rollback(before: Mapping[str, str]) -> dict[str, str | None] | None:
    """Champion and previous change places; None where one of them is missing."""
    if not {"champion", "previous"} <= before.keys():
        return None
    return {"champion": before["previous"], "previous": before["champion"]}


def _kid_is_known(metrics: Mapping[str, float]) -> Rule:
    kid = metrics.get(KID, math.nan)
    passed = math.isfinite(kid)
    return Rule("kid_is_known", passed, kid if passed else str(kid), f"a finite {KID}")


def _kid(comparison: Comparison, params: RegisterParams) -> Rule:
    """Better beyond chance; or, with new data, not worse than the margin beyond chance."""
    high, kid = comparison.kid_high, comparison.champion.figures["kid"]
    interval = f"the upper end of the {params.confidence:.0%} interval of its KID less the champion's {kid:.6g}"
    if comparison.data_is_new:
        most = margin(comparison, params)
        return Rule("kid_is_not_worse", high <= most, high, f"at most {most:.6g}, for the data are new: {interval}")
    return Rule("kid_is_lower", high < 0, high, f"below 0: {interval}")


def _classes_are_kept(challenger: Trial, champion: Trial) -> Rule:
    lost = [name for name in champion.classes if name not in challenger.classes]
    found = f"lost {', '.join(lost)}" if lost else "none lost"
    wanted = "every class that the champion draws; without one it is another model: change register.model_name"
    return Rule("classes_are_kept", not lost, found, wanted)


def _class_balance(challenger: Trial, champion: Trial, params: RegisterParams) -> Rule:
    """Within the budget, or no worse than a champion that is not."""
    ours, theirs = (trial.figures.get("class_total_variation", 0.0) for trial in (challenger, champion))
    most = max(params.max_class_total_variation, theirs)
    return Rule("class_balance", ours <= most, ours, f"at most {most:.6g} of total variation")


def _no_more_copies(challenger: Trial, champion: Trial) -> Iterator[Rule]:
    """Memorisation is not worse by more than chance: p' <= p + 2 sqrt(2 p (1 - p) / n)."""
    counts = {"near_copies": challenger.figures["num_images"], "shifted_near_copies": challenger.num_shifted}
    for name, figure in COPIES.items():
        ours, theirs, count = challenger.figures[figure], champion.figures[figure], counts[name]
        # A champion without any copy knows its share no better than to one picture.
        p = max(theirs, 1 / count)
        most = p + NUM_ERRORS * math.sqrt(2 * p * (1 - p) / count)
        yield Rule(name, ours <= most, ours, f"at most {most:.6g}: the champion's {theirs:.6g} and what is chance")


def _ratio(name: str, found: float, most: float, *, measured: bool = False) -> Rule:
    return Rule(name, found <= most, found, f"at most {most:.6g} times the champion's", measured)


def _short(found: float | str | None) -> str:
    return f"{found:.6g}" if isinstance(found, float) else str(found)
