"""How a model is sampled if a request does not specify it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pipeline.diffusion.guidance_interval import ALL_STEPS, Interval, guided_steps
from pipeline.diffusion.samplers import Sampler


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingDefaults:
    """Sampling settings for requests that specify none: the field `sampling` of model.json."""

    sampler: Sampler
    num_steps: int
    guidance_scale: float
    """1.0 for no guidance."""
    guidance_interval: Interval = ALL_STEPS
    """The part of the steps that is guided."""

    @property
    def num_rows(self) -> int:
        """Rows of network calls for one image: one for each step, two where it is guided."""
        num_guided = 0 if self.guidance_scale == 1 else len(guided_steps(self.num_steps, self.guidance_interval))
        return self.num_steps + num_guided

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Read the settings from JSON, where an interval is a list.

        Raises:
            TypeError, ValueError: a name is missing or unknown, or the interval does not have two ends.
        """
        begin, end = document.get("guidance_interval", ALL_STEPS)
        return cls(**{**document, "guidance_interval": (begin, end)})


DEFAULT_SAMPLING = SamplingDefaults(sampler="dpmpp_2m", num_steps=20, guidance_scale=1.0)
"""Used until an evaluation chooses better ones."""


def guidance_in_words(scale: float, interval: Sequence[float]) -> str:
    """`1.2`, or `1.2 from 0.3 to 0.6 of the steps`."""
    begin, end = interval
    return f"{scale:g}" if (begin, end) == ALL_STEPS else f"{scale:g} from {begin:g} to {end:g} of the steps"
