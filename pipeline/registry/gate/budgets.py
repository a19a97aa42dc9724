"""The rules about what a challenger costs: its bytes, its work, its memory, and its time as far as a clock can tell."""

from dataclasses import replace

from pipeline.params import RegisterParams
from pipeline.registry.gate.comparison_result import ComparisonResult
from pipeline.registry.gate.rule import Rule
from pipeline.registry.gate.work import Ratio


def gain_of(comparison: ComparisonResult, params: RegisterParams) -> str | None:
    """The improvement of a challenger in words, if it is worth a higher cost; else None."""
    ours, theirs = (model.figures["kid"] for model in (comparison.challenger, comparison.champion))
    if comparison.kid.value >= -params.smallest_improvement * max(theirs, 0.0):
        return None
    return f"its KID is {ours:.3g} for the champion's {theirs:.3g}, so a person weighs them"


def costs(comparison: ComparisonResult, params: RegisterParams, gain: str | None) -> list[Rule]:
    """What is counted is within the budgets, and so is the time, as far as a clock can tell.

    `gain` leaves the decision open to a person.
    """
    challenger, champion = comparison.challenger, comparison.champion
    work = challenger.work.multiply_adds_per_image / champion.work.multiply_adds_per_image
    memory, size = challenger.work.peak_mib / champion.work.peak_mib, challenger.model_bytes / champion.model_bytes
    return [
        _budget("model_size", size, params.max_size_ratio, "bytes of weights", gain),
        _budget("work", work, params.max_latency_ratio, "multiply-adds an image", gain),
        _latency(comparison.latency, params.max_latency_ratio, gain),
        _budget("memory", memory, params.max_memory_ratio, "memory of tensors", gain),
    ]


def _budget(name: str, found: float, most: float, what: str, gain: str | None) -> Rule:
    passed = found <= most
    wanted = f"at most {most:.6g} times the champion's {what}"
    if gain and not passed:
        return Rule(name, passed, found, f"{wanted}; {gain}", leaves_open=True)
    return Rule(name, passed, found, wanted)


def _latency(ratio: Ratio | None, most: float, gain: str | None) -> Rule:
    """Not without a clock for models that do the same work, and not by an interval that a busy machine may explain."""
    if ratio is None:
        return Rule("latency", passed=True, found="the same network, steps and guidance", wanted="no more work")
    rule = _budget("latency", ratio.low, most, "time for a batch, by the lower end of the interval", gain)
    found = f"{ratio.value:.3g} ({ratio.low:.3g} to {ratio.high:.3g})"
    return replace(rule, found=found, measured=True)
