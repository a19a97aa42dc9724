"""The gate in front of `champion`: lets a challenger meet the champion, and says what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artefacts.model import Model, load_model
from pipeline.registry import promotion
from pipeline.registry.comparison import EvaluationSetup, contest
from pipeline.registry.promotion import Comparison, Rule, Trial


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the rules say, and what they were told."""

    rules: Sequence[Rule]
    comparison: Mapping[str, Any] | None = None
    """As decision.json has it; None where there was none."""

    @property
    def is_accepted(self) -> bool:
        return promotion.is_accepted(self.rules)

    @property
    def why(self) -> str:
        return promotion.reason(self.rules)


def verdict(
    metrics: Mapping[str, float], challenger: Path, champion: Path | None, arena: EvaluationSetup, out: Path
) -> Verdict:
    """Evaluator the challenger in a folder against the champion in another, or alone where there is none.

    Raises:
        ArtefactError: a model does not fit its files, or the challenger the prepared set.

    """
    if champion is None:
        return Verdict(rules=promotion.first_rules(metrics))
    ours, theirs = (_pictures(load_model(folder)) for folder in (challenger, champion))
    if ours != theirs:
        return Verdict(rules=promotion.unlike_rules(metrics, ours, theirs))
    comparison, params = contest(challenger, champion, arena, out), arena.params.register_
    return Verdict(rules=promotion.rules(metrics, comparison, params), comparison=_document(comparison, arena))


def _pictures(model: Model) -> str:
    channels, height, width = model.description.data.shape
    return f"{width}x{height} pixels, channels: {channels}"


def _document(comparison: Comparison, arena: EvaluationSetup) -> dict[str, Any]:
    params = arena.params.register_
    return {
        **arena.facts(),
        "data_is_new": comparison.data_is_new,
        "kid_difference": {
            "value": comparison.kid_difference,
            "low": comparison.kid_low,
            "high": comparison.kid_high,
            "confidence": params.confidence,
            "margin": promotion.margin(comparison, params),
        },
        "challenger": _standing(comparison.challenger),
        "champion": _standing(comparison.champion),
        "measured": {
            "latency_ratio": comparison.latency_ratio,
            "challenger": _measured(comparison.challenger),
            "champion": _measured(comparison.champion),
        },
    }


def _standing(trial: Trial) -> dict[str, Any]:
    return {"classes": list(trial.classes), "figures": dict(trial.figures), "model_bytes": trial.model_bytes}


def _measured(trial: Trial) -> dict[str, float]:
    return {"batch_ms": trial.batch_ms, "peak_memory_mib": trial.peak_memory_mib}
