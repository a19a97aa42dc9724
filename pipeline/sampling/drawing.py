"""Images 0, 1, 2 … of a model, each a function of its number alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.artefacts.model import Model, plan_for
from pipeline.diffusion.guidance_interval import Interval
from pipeline.diffusion.images import to_bytes
from pipeline.diffusion.samplers import Sampler
from pipeline.diffusion.sampling import SamplerPlan
from pipeline.diffusion.seeds import image_seed
from pipeline.evaluation.samples import Samples
from pipeline.inference.draw import draw_batches


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawing:
    """A model and the settings with which its images are drawn."""

    model: Model
    seed: int
    """Image i has the seed `image_seed(seed, i)`: drawn alone with that one it has the same pixels."""
    class_label: int | None
    """Class of every image; None for each class in turn, and for a model without classes."""
    sampler: Sampler
    num_steps: int
    eta: float
    guidance_scale: float
    guidance_interval: Interval

    @cached_property
    def plan(self) -> SamplerPlan:
        """The sampler's table.

        Raises:
            FoundryError: the settings are invalid for this model.
        """
        return plan_for(
            self.model,
            self.sampler,
            self.num_steps,
            eta=self.eta,
            guidance_scale=self.guidance_scale,
            guidance_interval=self.guidance_interval,
        )

    def samples(self, numbers: Sequence[int], count: Callable[[int], object]) -> Samples:
        """Draw the images of these numbers; `count` is called with the size of each batch."""
        seeds, labels = [image_seed(self.seed, number) for number in numbers], self._labels(numbers)
        batches = []
        for x0 in draw_batches(self.model, self.plan, seeds, labels):
            batches.append(to_bytes(x0).permute(0, 2, 3, 1).numpy())
            count(len(x0))
        return Samples(
            np.concatenate(batches),
            None if labels is None else np.array(labels, np.int64),
            np.array(seeds, np.int64),
        )

    def _labels(self, numbers: Sequence[int]) -> list[int] | None:
        num_classes = self.model.description.data.num_classes
        if not num_classes:
            return None
        return [number % num_classes if self.class_label is None else self.class_label for number in numbers]
