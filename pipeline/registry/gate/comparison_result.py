"""What a comparison of a challenger with the champion has measured: the rules read nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.registry.gate.kid_difference import KidDifference
from pipeline.registry.gate.work import Ratio, Work


@dataclass(frozen=True, slots=True)
class ClassAgreement:
    """Shares of images of one class that the classifier recognises, 0 to 1."""

    samples: float
    """Share of the samples for which this class was requested."""
    others: float
    """Share of the samples of all other classes: as high as `samples` for a model that draws the class whatever is requested."""
    real: float
    """Share of the held-out images of this class."""
    num_samples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelResult:
    """The measurements of one model of a comparison, made alone in its process."""

    figures: Mapping[str, float]
    """Figures of its samples, named as in metrics.json without the prefix `evaluate/`."""
    num_shifted: int
    """Number of samples that were searched for shifted copies of training images."""
    classes: tuple[str, ...]
    """Names of the classes that the model can draw; empty without classes."""
    class_agreement: Mapping[str, ClassAgreement]
    """Agreement by class name; empty without classes, or if the extractor is not a classifier."""
    model_bytes: int
    work: Work
    batch_ms: float | None
    """Median time of one batch of 64 images with the sampler that the model recommends; None if it was not timed."""
    peak_memory_mib: float
    """Peak memory of its process; no rule reads it, since it depends on the machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonResult:
    """A challenger and the champion on the same held-out images, with the same seeds and number of samples."""

    challenger: ModelResult
    champion: ModelResult
    champion_before: Mapping[str, float]
    """The metrics that the champion was registered with."""
    kid: KidDifference
    """Difference in KID over all trainings that were compared."""
    num_trainings: int
    """Number of registered trainings of the challenger's recipe."""
    is_one_recipe: bool
    """Whether challenger and champion differ only in the seed of their training."""
    latency: Ratio | None
    """Ratio of the times for a batch, measured in turns; None if both do the same work."""
    data_is_new: bool
    """Whether the two models were trained on different images."""
    floor_error: float
    """Standard error of the KID of real images: the size of differences by chance."""
