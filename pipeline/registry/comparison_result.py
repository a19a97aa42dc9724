"""What a comparison of a challenger with the champion has measured: the rules read nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.registry.kid_difference import KidDifference
from pipeline.registry.work import Ratio, Work


@dataclass(frozen=True, slots=True)
class ClassAgreement:
    """How often the classifier sees a class where it should be, in shares of 0 to 1."""

    samples: float
    """Of the samples of which it was requested."""
    others: float
    """Of the samples of all other classes: as high as `samples` for a model that draws the class whatever is requested."""
    real: float
    """Of its held-out images."""
    num_samples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelResult:
    """The measurements of one model of a comparison, made alone in its process."""

    figures: Mapping[str, float]
    """Figures of its samples, named as in metrics.json without the prefix `evaluate/`."""
    num_shifted: int
    """How many samples were searched for shifted copies of training images."""
    classes: tuple[str, ...]
    """Names of the classes that the model can draw; empty without classes."""
    class_agreement: Mapping[str, ClassAgreement]
    """By name of the class; empty without classes, or if the extractor is no classifier."""
    model_bytes: int
    work: Work
    batch_ms: float | None
    """Median time of one batch of 64 images with the sampler that the model recommends; None if it was not timed."""
    peak_memory_mib: float
    """Of its process, which no rule reads: it depends on the machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonResult:
    """A challenger and the champion on the same held-out images, with the same seeds and number of samples."""

    challenger: ModelResult
    champion: ModelResult
    champion_before: Mapping[str, float]
    """The metrics that the champion was registered with."""
    kid: KidDifference
    """Of all trainings that were compared."""
    num_trainings: int
    """How often the challenger's recipe was trained and registered."""
    is_one_recipe: bool
    """Challenger and champion differ in nothing but the seed of their training."""
    latency: Ratio | None
    """Of the times for a batch, taken in turns; None if both do the same work."""
    data_is_new: bool
    """Whether the two models were trained on different images."""
    floor_error: float
    """Standard error of the KID of real images: the size of differences by chance."""
