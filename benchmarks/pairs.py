"""Comparisons of trainings in a pool, which take longer than the decisions that are made of them, kept on disk."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import starmap
from typing import Any

from benchmarks.pool import Arm, Pool
from benchmarks.protocol import save
from pipeline.evaluation.paired_kid import Difference, kid_difference
from pipeline.registry.gate.kid_difference import SameSeeds

NUM_RESAMPLES = 500
"""A quarter of the gate's: the ends of an interval are then known to a tenth of its width."""
CONFIDENCE = 0.95
"""Confidence level of the former gate, which knew only the variance of the images."""
Training = tuple[Arm, int]


class Comparisons:
    """Differences of pairs of trainings, kept on disk."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self._path = pool, pool.folder / "pairs.json"
        self._known: dict[str, Any] = json.loads(self._path.read_text()) if self._path.exists() else {}

    def difference(self, ours: Training, theirs: Training) -> Difference:
        if (key := _key(ours, theirs)) in self._known:
            return Difference(**self._known[key])
        if (mirrored := self._known.get(_key(theirs, ours))) is not None:
            low, high, error = -mirrored["high"], -mirrored["low"], mirrored["standard_error"]
            return Difference(value=-mirrored["value"], low=low, high=high, standard_error=error)
        one, other = (self.pool.result(*each).features for each in (ours, theirs))
        found = kid_difference(
            one, other, self.pool.held_out, confidence=CONFIDENCE, seed=0, num_resamples=NUM_RESAMPLES
        )
        self._known[key] = asdict(found)
        return found

    def same_seeds(self, ours: Sequence[Training], theirs: Sequence[Training]) -> SameSeeds:
        """What trainings with the same seeds have in common."""
        key = " ".join(starmap(_key, zip(ours, theirs, strict=True)))
        if key not in self._known:
            features = [[self.pool.result(*each).features for each in side] for side in (ours, theirs)]
            found = SameSeeds.measure(list(zip(*features, strict=True)), self.pool.held_out)
            self._known[key] = asdict(found)
        return SameSeeds(**self._known[key])

    def keep(self) -> None:
        save(self._path, self._known)


def _key(ours: Training, theirs: Training) -> str:
    return " ".join(f"{arm.name}:{arm.num_images}:{seed}" for arm, seed in (ours, theirs))
