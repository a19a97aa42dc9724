"""The rules by which a model becomes champion, as pure functions of metrics and of a comparison."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

from pipeline.evaluation.paired_kid import Difference
from pipeline.evaluation.verdict import LEAST_LEVELS, against_baselines
from pipeline.params import RegisterParams
from pipeline.registry.gate.budgets import costs, gain_of
from pipeline.registry.gate.comparison_result import ComparisonResult, ModelResult
from pipeline.registry.gate.kid_difference import MAX_TRAININGS, KidDifference
from pipeline.registry.gate.rule import Outcome, Rule

KID = "evaluate/kid"
COLLAPSE = 5.0
"""Multiple of its earlier KID, or number of standard errors of its class agreement, from which a champion has failed on new data."""
NUM_STANDARD_ERRORS = 2.0
"""Standard errors by which a share of images may exceed the champion's before the difference counts as more than chance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The gate's decision on a model and its reasons; the content of decision.json."""

    decision: Outcome
    rules: Sequence[Rule] = ()
    comparison: Mapping[str, Any] | None = None
    """The comparison as decision.json holds it; None if there was none."""
    champion: str | None = None
    """The version that was champion when this was decided."""
    version: str | None = None
    """The version that held this model before; without rules, `decision` is what was decided about it then."""
    model_digest: str

    @property
    def is_accepted(self) -> bool:
        return self.decision == "accept"

    @property
    def why(self) -> str:
        """The rules that failed, or all rules if none did, on one line."""
        failed = [rule for rule in self.rules if not rule.passed]
        return "; ".join(
            f"{rule.name}: found {_short(rule.found)}, wanted {rule.wanted}" for rule in failed or self.rules
        )

    def document(self) -> dict[str, Any]:
        """The content of decision.json."""
        return asdict(self)


def first_rules(metrics: Mapping[str, float], *, is_distilled: bool = False) -> list[Rule]:
    """The rules for a model when there is no champion: its own evaluation decides."""
    return [_kid_is_known(metrics), *_better_than_baselines(metrics, is_distilled=is_distilled)]


def unlike_rules(metrics: Mapping[str, float], challenger: str, champion: str) -> list[Rule]:
    """The rules that refuse a model whose images have another size or other channels than the champion's.

    Args:
        metrics: metrics.json of the challenger.
        challenger: size and channels of its images, in words.
        champion: size and channels of the champion's images.
    """
    wanted = f"the champion's {champion}; another kind of picture is another model: change register.model_name"
    return [_kid_is_known(metrics), Rule("same_pictures", passed=False, found=challenger, wanted=wanted)]


def rules(
    metrics: Mapping[str, float], comparison: ComparisonResult, params: RegisterParams, *, is_distilled: bool = False
) -> list[Rule]:
    """The rules for a challenger that was compared with the champion; the losses of a student are its teacher's."""
    challenger, champion = comparison.challenger, comparison.champion
    kid = _kid(comparison, params)
    return [
        _kid_is_known(metrics),
        *_better_than_baselines(metrics, is_distilled=is_distilled),
        _champion_holds(metrics, comparison),
        _other_recipe(comparison),
        kid,
        _few_trainings(comparison),
        _classes_are_kept(challenger, champion),
        _class_balance(challenger, champion, params),
        _classes_are_shown(challenger, champion),
        _no_more_copies("near_copies", "near_copy_share", challenger, champion, int(challenger.figures["num_images"])),
        _no_more_copies("shifted_near_copies", "near_copy_share_shifted", challenger, champion, challenger.num_shifted),
        *costs(comparison, params, gain_of(comparison, params) if kid.passed else None),
    ]


def second_judge(first: KidDifference, second: Difference | None) -> Rule:
    """Two judges whose intervals exclude 0 on opposite sides leave the decision to a person."""
    if second is None:
        return Rule("second_judge", passed=True, found="it has judged already", wanted="an independent network")
    found = f"{second.value:.3g} ({second.low:.3g} to {second.high:.3g}), the first judge's {first.value:.3g}"
    wanted = "the change of KID by EfficientNet-Lite0 not above 0 beyond chance where the first judge's is below"
    return Rule("second_judge", not (first.high < 0 < second.low), found, wanted, leaves_open=True)


def margin(comparison: ComparisonResult, params: RegisterParams) -> float:
    """Largest rise of KID that is allowed: 0 on the same data.

    On new data it is a share of the champion's KID, but at least the standard error of the KID of real images: near a
    KID of 0 a share alone would refuse every challenger.
    """
    if not comparison.data_is_new:
        return 0.0
    return max(params.max_kid_rise * comparison.champion.figures["kid"], comparison.floor_error)


def _kid_is_known(metrics: Mapping[str, float]) -> Rule:
    kid = metrics.get(KID, math.nan)
    passed = math.isfinite(kid)
    return Rule("kid_is_known", passed, kid if passed else str(kid), f"a finite {KID}")


def _better_than_baselines(metrics: Mapping[str, float], *, is_distilled: bool) -> list[Rule]:
    """The model is better than the mixture of Gaussians and the linear denoiser, by its own evaluation."""
    mixture, linear = against_baselines(metrics, is_distilled=is_distilled)
    below = "the interval of its KID below that of a mixture of Gaussians, and its classes recognised no less often"
    levels = f"a lower error than the best linear denoiser's at {LEAST_LEVELS:.0%} of the noise levels"
    return [
        Rule("better_than_mixture", mixture.is_good is True, mixture.text, below, leaves_open=True),
        Rule("better_than_linear", linear.is_good is True, linear.text, levels, leaves_open=True),
    ]


def _kid(comparison: ComparisonResult, params: RegisterParams) -> Rule:
    """Lower by more than luck; on new data, not higher than the margin by more than luck.

    Luck is that of the images drawn and that of the trainings' seeds. What luck does not exclude is left open: on the same
    data an improvement that is worth another training, on new data a rise within the margin.
    """
    found, kid = comparison.kid, comparison.champion.figures["kid"]
    interval = (
        f"the upper limit, at {found.level:.2g}, of its KID less the champion's {kid:.6g}; {_sight(found, params)}"
    )
    most = margin(comparison, params)
    if comparison.data_is_new:
        wanted = f"at most {most:.6g}, for the data are new: {interval}"
        return Rule("kid_is_not_worse", found.high <= most, found.high, wanted, leaves_open=found.low <= most)
    is_open = not found.is_final and found.low < -params.smallest_improvement * max(kid, 0.0)
    return Rule("kid_is_lower", found.high < 0, found.high, f"below 0: {interval}", leaves_open=is_open)


def _sight(found: KidDifference, params: RegisterParams) -> str:
    """The least improvement that a comparison of so many trainings could have detected, in words."""
    trainings = f"{found.num_challengers} against {found.num_champions} training{'s' * (found.num_champions > 1)}"
    least = "any" if found.visible is None else f"{found.visible:.0%}"
    return (
        f"{trainings}{' with the same seeds' * (found.seed_correlation is not None)} find an improvement of {least} with power "
        f"{params.power:.0%}; a smaller one is not distinguishable from the luck of a seed"
    )


def _other_recipe(comparison: ComparisonResult) -> Rule:
    """Between two trainings of one recipe the better one is luck."""
    found = "only the seed of the training differs" if comparison.is_one_recipe else "another recipe"
    return Rule("other_recipe", not comparison.is_one_recipe, found, "more than another seed than the champion's")


def _few_trainings(comparison: ComparisonResult) -> Rule:
    """The error rates hold for `MAX_TRAININGS` trainings of a recipe: of many, one is good by luck."""
    wanted = f"at most {MAX_TRAININGS} trainings of one recipe"
    return Rule("few_trainings", comparison.num_trainings <= MAX_TRAININGS, float(comparison.num_trainings), wanted)


def _champion_holds(metrics: Mapping[str, float], comparison: ComparisonResult) -> Rule:
    """The champion still draws what is held out: if not, the new data may be wrong as a whole, and any challenger wins.

    It fails if it has become worse than a mixture of Gaussians by KID, or shows less than half of the classes it did.
    """
    champion, before = comparison.champion.figures, comparison.champion_before
    kid, kid_before = champion["kid"], before.get(KID, math.inf)
    found, failed = f"KID {kid:.3g} ({kid_before:.3g} when registered)", False
    if comparison.data_is_new:
        failed = kid > max(metrics.get("baseline/kid", math.inf), COLLAPSE * kid_before)
    agreement, agreed_before = champion.get("class_agreement"), before.get("evaluate/class_agreement")
    if comparison.data_is_new and agreement is not None and agreed_before is not None:
        found += f", class agreement {agreement:.2f} ({agreed_before:.2f})"
        chance = COLLAPSE * math.sqrt(agreed_before * (1 - agreed_before) / champion["num_images"])
        failed |= agreement < min(agreed_before / 2, agreed_before - chance)
    wanted = "a champion that still draws the new held-out images; if these are right, promote the version yourself"
    return Rule("champion_holds", not failed, found, wanted, leaves_open=True)


def _classes_are_kept(challenger: ModelResult, champion: ModelResult) -> Rule:
    lost = [name for name in champion.classes if name not in challenger.classes]
    found = f"lost {', '.join(lost)}" if lost else "none lost"
    wanted = "every class that the champion draws; without one it is another model: change register.model_name"
    return Rule("classes_are_kept", not lost, found, wanted)


def _class_balance(challenger: ModelResult, champion: ModelResult, params: RegisterParams) -> Rule:
    """Within the budget, or no worse than a champion that exceeds it; up to twice as much may be the luck of a seed."""
    ours, theirs = (model.figures.get("class_total_variation", 0.0) for model in (challenger, champion))
    most = max(params.max_class_total_variation, theirs)
    wanted = f"at most {most:.6g} of total variation"
    return Rule("class_balance", ours <= most, ours, wanted, leaves_open=ours <= 2 * most)


def _classes_are_shown(challenger: ModelResult, champion: ModelResult) -> Rule:
    """Each class is seen as often as in the champion's samples or in real images, less what chance explains.

    The chance is that of images; up to COLLAPSE standard errors may be the luck of a seed, and are left open.
    """
    too_rare, shortfalls = [], []
    # Of many classes one may be far off by chance, so the error of all together stays that of one comparison.
    z = NormalDist().inv_cdf(1 - NormalDist().cdf(-NUM_STANDARD_ERRORS) / max(1, len(challenger.class_agreement)))
    for name, ours in challenger.class_agreement.items():
        theirs, n = champion.class_agreement[name], ours.num_samples
        wanted = min(theirs.samples - theirs.others, ours.real)
        # A share of 0 or 1 is known no better than to one image.
        p = min(max((ours.samples + wanted) / 2, 1 / n), 1 - 1 / n)
        shortfalls.append((wanted - ours.samples) / math.sqrt(2 * p * (1 - p) / n))
        if shortfalls[-1] > z:
            too_rare.append(f"{name} {ours.samples:.2f} instead of {wanted:.2f}")
    wanted_text = "the classifier sees each class as often as in the champion's samples or in real images, chance aside"
    is_open = max(shortfalls, default=0.0) < COLLAPSE
    found = ", ".join(too_rare) or "all of them"
    return Rule("classes_are_shown", not too_rare, found, wanted_text, leaves_open=is_open)


def _no_more_copies(name: str, figure: str, challenger: ModelResult, champion: ModelResult, num_images: int) -> Rule:
    """No more copies of training images than chance explains: p' <= p + 2 sqrt(2 p (1 - p) / n)."""
    ours, theirs = challenger.figures[figure], champion.figures[figure]
    # A share of 0 is known no better than to one image.
    p = max(theirs, 1 / num_images)
    most = p + NUM_STANDARD_ERRORS * math.sqrt(2 * p * (1 - p) / num_images)
    return Rule(name, ours <= most, ours, f"at most {most:.6g}: the champion's {theirs:.6g} and what chance adds")


def _short(found: float | str | None) -> str:
    return f"{found:.6g}" if isinstance(found, float) else str(found)
