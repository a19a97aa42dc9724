"""The thoroughness of tuning and evaluation: less where they would take time from the training."""

from collections.abc import Iterator
from typing import Any

from pipeline.adoption.choices import Choice

MOST_SHARE = 0.25
"""Share of the time that the evaluation may take, at most, before it is shortened; sets of 32 pixels with alpha take 0.2 of 15 minutes."""
GUIDANCE_SCALES = [1.0, 1.25, 1.5, 2.0, 3.0, 4.0]
"""Models of few images need much guidance, so large scales are among them. Fewer than in params.yaml, since each costs time that
the training needs: on emoji the distances of neighbours differed by less than the 5 % that the choice overlooks."""
THOROUGH: dict[str, Any] = {
    "guidance_intervals": [[0.0, 1.0], [0.5, 0.9]],
    "tuning_rows": 20_000,
    "compared_rows": [1, 2, 4, 6, 10, 20],
}
SHORT: dict[str, Any] = {"guidance_intervals": [[0.0, 1.0]], "tuning_rows": 8_000, "compared_rows": []}
"""Half of the network's rows; the number of samples, on which the errors of the figures depend, stays."""


def evaluation_choices(thorough_sec: float, minutes: float) -> Iterator[Choice]:
    """Choose between `THOROUGH` and `SHORT`; the former takes at most `thorough_sec` here."""
    is_short = thorough_sec > MOST_SHARE * 60 * minutes
    found = f"a thorough evaluation takes at most {thorough_sec / 60:.1f} of {minutes:g} min"
    why = "shortened, so that the training has more" if is_short else "as thorough as the demo's"
    yield Choice("evaluate.guidance_scales", GUIDANCE_SCALES, "any set", "tried in this order until the distance rises")
    for name, value in (SHORT if is_short else THOROUGH).items():
        yield Choice(f"evaluate.{name}", value, found, why)
