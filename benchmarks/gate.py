"""Measure how often luck decides about a promotion: decisions between trainings that differ in their seed, or truly differ.

    python -m benchmarks.gate --pool .foundry/gate-pool --out benchmarks/results/gate.json

Four recipes for scikit-learn's digits are trained with many seeds each: `base`; `fifteen` and `better`, with an eighth and a
sixth more images; and `twice`. Decisions draw trainings from this pool: three of `base` against three others of `base`, of
which any promotion is luck; and of two recipes the same three seeds. Each is decided by the gate that knows the images' luck
alone, with the first training of each side, and by the present gate after one, two and three, until it is promoted or
refused. These are decisions by the rules of KID; how often the rules of classes and copies refuse one training a side is
counted on its own.

As on new data the same comparisons are judged by the rule "not worse by more than max_kid_rise"; `base` as a challenger of
`better` is then worse than allowed. A stopped run continues: trainings and pairs are kept in --pool.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from scipy.stats import binomtest

from benchmarks.pairs import CONFIDENCE, Comparisons
from benchmarks.pool import Arm, Pool, Result
from benchmarks.protocol import finish, log_progress, parser, table
from benchmarks.recipe_luck import arm_figures, pair_figures
from pipeline.evaluation.evaluator import NUM_SHIFTED
from pipeline.params import RegisterParams
from pipeline.registry.gate import promotion
from pipeline.registry.gate.comparison_result import ClassAgreement, ComparisonResult, ModelResult
from pipeline.registry.gate.kid_difference import (
    MAX_TRAININGS,
    PRIOR,
    KidDifference,
    PastEvaluation,
    SeedSpread,
    compare_recipes,
    estimate_spread,
)
from pipeline.registry.gate.rule import Outcome, Rule, outcome_of
from pipeline.registry.gate.work import Work

ARMS = BASE, FIFTEEN, BETTER, TWICE = Arm("base", 3200), Arm("fifteen", 3584), Arm("better", 3712), Arm("twice", 6400)
NUM_HISTORY = 10
KID_RULES = {"kid_is_lower", "kid_is_not_worse", "few_trainings"}
OTHER_RULES = {"class_balance", "classes_are_shown", "near_copies", "shifted_near_copies"}
"""They do not know the luck of a seed; how often they refuse is counted on its own."""


@dataclass(frozen=True, slots=True)
class Case:
    """A challenger's recipe, a champion's, and the rule that applies."""

    challenger: Arm
    champion: Arm
    data_is_new: bool
    promotion_is: str
    """What a promotion means."""


CASES = (
    Case(BASE, BASE, data_is_new=False, promotion_is="false"),
    Case(FIFTEEN, BASE, data_is_new=False, promotion_is="right"),
    Case(BETTER, BASE, data_is_new=False, promotion_is="right"),
    Case(TWICE, BASE, data_is_new=False, promotion_is="right"),
    Case(BASE, BASE, data_is_new=True, promotion_is="right"),
    Case(BASE, BETTER, data_is_new=True, promotion_is="false"),
)


@dataclass(frozen=True, eq=False)
class Gate:
    """Decides between trainings of the pool."""

    comparisons: Comparisons
    params: RegisterParams

    def before(self, case: Case, ours: Sequence[int], theirs: Sequence[int]) -> Outcome:
        """The outcome of the former gate: the interval of the images alone, one training on each side."""
        found = self.comparisons.difference((case.challenger, ours[0]), (case.champion, theirs[0]))
        kid = KidDifference(
            value=found.value,
            low=found.low,
            high=found.high,
            level=1 - CONFIDENCE,
            num_challengers=1,
            num_champions=1,
            seed_correlation=None,
            visible=None,
        )
        # Whatever the interval did not exclude was left open.
        return self._outcome(
            case, ours[0], theirs[0], kid, self.params.model_copy(update={"smallest_improvement": 0.0})
        )

    def after(self, case: Case, ours: Sequence[int], theirs: Sequence[int], history: Sequence[int] = ()) -> Outcome:
        """The outcome with the variance of images and seeds, after each training on each side until it is decided."""
        outcome: Outcome = "undecided"
        for count in range(1, len(ours) + 1):
            kid = self.kid_difference(case, ours[:count], theirs[:count], history)
            outcome = self._outcome(case, ours[count - 1], theirs[0], kid, self.params)
            if outcome != "undecided":
                break
        return outcome

    def kid_difference(
        self, case: Case, ours: Sequence[int], theirs: Sequence[int], history: Sequence[int]
    ) -> KidDifference:
        """The difference between the recipes of a case; the i-th trainings of both sides count as trainings with one seed."""
        challengers, champions = [(case.challenger, seed) for seed in ours], [(case.champion, seed) for seed in theirs]
        # The last judgement is by pairs of one seed alone.
        is_last = len(ours) == MAX_TRAININGS
        pairs = {
            (str(i), str(j)): self.comparisons.difference(one, other)
            for (i, one), (j, other) in product(enumerate(challengers), enumerate(champions))
            if i == j or not is_last
        }
        past = [("challenger", *each) for each in challengers] + [("champion", *each) for each in champions]
        spread = self.spread([*past, *(("history", BASE, seed) for seed in history)])
        same_seeds = self.comparisons.same_seeds(challengers, champions) if is_last else None
        kids = [self._result(*each).figures["kid"] for each in champions]
        return compare_recipes(pairs, kids, spread, self.params, same_seeds)

    def outcomes(
        self, case: Case, ours: Sequence[int], theirs: Sequence[int], history: Sequence[int]
    ) -> dict[str, Outcome]:
        """The outcomes of each gate, by history and number of trainings on each side."""
        return {
            "images": self.before(case, ours, theirs),
            "seeds, one training": self.after(case, ours[:1], theirs[:1]),
            "seeds, up to three": self.after(case, ours, theirs),
            f"seeds, one training, {len(history)} known": self.after(case, ours[:1], theirs[:1], history),
            f"seeds, up to three, {len(history)} known": self.after(case, ours, theirs, history),
        }

    def refusing(self, case: Case, ours: int, theirs: int) -> list[str]:
        """The rules of classes and copies that refuse one training beside another."""
        kid = compare_recipes(
            {("", ""): self.comparisons.difference((case.challenger, ours), (case.champion, theirs))},
            [1.0],
            PRIOR,
            self.params,
        )
        return [
            each.name
            for each in self._rules(case, ours, theirs, kid, self.params)
            if each.name in OTHER_RULES and not (each.passed or each.leaves_open)
        ]

    def _outcome(self, case: Case, ours: int, theirs: int, kid: KidDifference, params: RegisterParams) -> Outcome:
        rules = self._rules(case, ours, theirs, kid, params)
        return outcome_of([each for each in rules if each.name in KID_RULES])

    def _rules(self, case: Case, ours: int, theirs: int, kid: KidDifference, params: RegisterParams) -> list[Rule]:
        results = self._result(case.challenger, ours), self._result(case.champion, theirs)
        challenger, champion = (model_result(each) for each in results)
        comparison = ComparisonResult(
            challenger=challenger,
            champion=champion,
            champion_before={},
            kid=kid,
            num_trainings=kid.num_challengers,
            is_one_recipe=False,
            latency=None,
            data_is_new=case.data_is_new,
            floor_error=self.comparisons.pool.floors["floor/kid_standard_error"],
        )
        return promotion.rules({promotion.KID: challenger.figures["kid"]}, comparison, params)

    def _result(self, arm: Arm, seed: int) -> Result:
        return self.comparisons.pool.result(arm, seed)

    def spread(self, past: Iterable[tuple[str, Arm, int]]) -> SeedSpread:
        """The spread that the gate learns from these trainings, each given as the name of its recipe, its arm and its seed."""
        figures = [(recipe, self._result(arm, seed).figures) for recipe, arm, seed in past]
        return estimate_spread(
            PastEvaluation(recipe, found["kid"], found["kid_standard_error"]) for recipe, found in figures
        )


def model_result(result: Result) -> ModelResult:
    """A training as the gate sees it; all have the same cost."""
    return ModelResult(
        figures=result.figures,
        num_shifted=NUM_SHIFTED,
        classes=tuple(result.class_agreement),
        class_agreement={name: ClassAgreement(**each) for name, each in result.class_agreement.items()},
        model_bytes=1,
        work=Work(rows_per_image=1, multiply_adds_per_row=1, peak_mib=1.0),
        batch_ms=None,
        peak_memory_mib=1.0,
    )


def main() -> None:
    made = parser("gate", __doc__)
    made.add_argument("--pool", type=Path, required=True, metavar="FOLDER", help="trainings, kept between runs")
    made.add_argument("--seeds", type=int, default=60, help="trainings of each recipe (default: %(default)s)")
    made.add_argument("--decisions", type=int, default=200, help="of each case (default: %(default)s)")
    made.add_argument("--recipes", nargs="+", help="judge these alone, `base` among them")
    arguments = made.parse_args()
    torch.set_num_threads(1)
    recipes = {arm.name: arm for arm in ARMS if arm.name in (arguments.recipes or [arm.name])}
    cases = [case for case in CASES if {case.challenger.name, case.champion.name} <= recipes.keys()]
    # Three a side and the history are disjoint.
    seeds = 2 * MAX_TRAININGS + NUM_HISTORY if arguments.quick else arguments.seeds
    count = 3 if arguments.quick else arguments.decisions
    pool = Pool(arguments.pool)
    pool.prepare()
    for seed in range(seeds):
        for arm in recipes.values():
            if not pool.has(arm, seed):
                pool.train(arm, seed)
    gate = Gate(Comparisons(pool), pool.params.register_)
    trainings = {name: [pool.result(arm, seed) for seed in range(seeds)] for name, arm in recipes.items()}
    arms = {name: arm_figures(each, pool.held_out) for name, each in trainings.items()}
    pairs = {name: pair_figures(each, trainings["base"]) for name, each in trainings.items() if name != "base"}
    results = [row for case in cases for row in decide(gate, case, seeds, count)]
    document = {"num_trainings": seeds, "num_decisions": count, "arms": arms, "pairs": pairs, "results": results}
    finish(arguments, document, report(document))


def decide(gate: Gate, case: Case, seeds: int, count: int) -> Iterator[dict[str, Any]]:
    """Make the decisions of a case by each gate."""
    random = np.random.default_rng(0)
    outcomes: dict[str, Counter[str]] = {}
    refusing: Counter[str] = Counter()
    for number in range(count):
        order = random.permutation(seeds).tolist()
        ours, others = order[:MAX_TRAININGS], order[MAX_TRAININGS:]
        theirs = others[:MAX_TRAININGS] if case.challenger == case.champion else ours
        for name, outcome in gate.outcomes(case, ours, theirs, others[MAX_TRAININGS:][:NUM_HISTORY]).items():
            outcomes.setdefault(name, Counter())[outcome] += 1
        refusing.update(gate.refusing(case, ours[0], theirs[0]))
        if number % 20 == 19:
            gate.comparisons.keep()
            log_progress(f"{case}: {number + 1} decisions")
    gate.comparisons.keep()
    for name, counted in outcomes.items():
        yield {
            "challenger": case.challenger.name,
            "champion": case.champion.name,
            "data_is_new": case.data_is_new,
            "promotion_is": case.promotion_is,
            "gate": name,
            "outcomes": dict(counted),
            "refused_by_others": dict(refusing),
        }


def report(document: Mapping[str, Any]) -> str:
    """The recipes, beside `base` by seed, and the share of decisions that promote and refuse, with Wilson's intervals of 95 %."""
    recipes, pairs = ([(name, *found.values()) for name, found in document[key].items()] for key in ("arms", "pairs"))
    columns = ["challenger, champion", "data", "gate", "promotion is", "promoted", "refused", "left open"]
    rows = [
        (
            f"{each['challenger']}, {each['champion']}",
            "new" if each["data_is_new"] else "the same",
            each["gate"],
            each["promotion_is"],
            *(share(each["outcomes"].get(name, 0), document["num_decisions"]) for name in get_args(Outcome)),
        )
        for each in document["results"]
    ]
    others = {
        f"{each['challenger']}, {each['champion']}": each["refused_by_others"]
        for each in document["results"]
        if not each["data_is_new"]
    }
    refused = [
        (name, *(share(found.get(rule, 0), document["num_decisions"]) for rule in sorted(OTHER_RULES)))
        for name, found in others.items()
    ]
    titles = ["recipe", "KID", "its deviation over seeds", "by samples", "its error by images", "seconds of training"]
    by_seed = ["less base of the same seed, as a share", "mean", "deviation", "correlation of KID", "of features"]
    return "\n".join(
        table(*each)
        for each in (
            (titles, recipes),
            (by_seed, pairs),
            (columns, rows),
            (["refused by", *sorted(OTHER_RULES)], refused),
        )
    )


def share(count: int, total: int) -> str:
    """A share in per cent with its interval."""
    found = binomtest(count, total).proportion_ci(method="wilson")
    return f"{100 * count / total:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})"


if __name__ == "__main__":
    main()
