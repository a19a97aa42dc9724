"""Feature extractors: networks whose features are compared in place of pixels.

`classifier` is trained on the data set's own labels, and ranks good and bad generators best; `efficientnet_lite0` was
trained on photographs (ImageNet) and needs no labels; `random` is untrained, for when neither fits. None is downloaded.
"""

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.artefacts.alpha import on_both
from pipeline.artefacts.dataset import DatasetInfo
from pipeline.artefacts.files import file_digest, read_document, write_json
from pipeline.artefacts.image_size import ImageSize, image_size
from pipeline.artefacts.subset import Images, Subset
from pipeline.artefacts.tensors import load_tensors, save_tensors
from pipeline.device import best_device
from pipeline.diffusion.images import to_unit_range
from pipeline.errors import ArtefactError, FoundryError
from pipeline.evaluation.extractors.networks import ConvNet, EfficientNetLite0, FeatureNetwork
from pipeline.params import FeaturesParams
from pipeline.progress import progress_bar

Kind = Literal["classifier", "efficientnet_lite0", "random"]

WEIGHTS, DESCRIPTION = "extractor.safetensors", "extractor.json"
BATCH_SIZE = 128
NUM_FOR_SCALE = 250
"""Real images from which the scale of the features is computed."""
MAX_EPOCHS = 40
"""Passes of a classifier's training over its images; on a small data set more of them only over-fit."""
PEAK_LEARNING_RATE, RISE = 0.01, 0.2
"""The classifier's learning rate rises over the first fifth of the steps and falls to zero over the rest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractorConfig:
    """Configuration of an extractor's network, as extractor.json has it."""

    kind: Kind
    image_size: ImageSize
    channels: int
    num_classes: int
    """0 if it is no classifier."""


@dataclass(frozen=True, eq=False)
class Extractor:
    """A feature network in evaluation mode, on the machine's best device."""

    config: ExtractorConfig
    network: FeatureNetwork

    @torch.no_grad()
    def features(self, images: Images) -> Tensor:
        """Compute features, float32 `[n, num_features]`, on the CPU."""
        out = torch.empty(len(images), self.network.num_features)
        starts = range(0, len(images), BATCH_SIZE)
        for start in progress_bar(starts, name="features", unit="batches", total=len(starts)):
            batch = slice(start, start + BATCH_SIZE)
            out[batch] = self.network.features(_pixels(images[batch])).cpu()
        return out

    def set_scale(self, features: Tensor) -> None:
        """Rescale the network so that these features, `[n, num_features]` of real images, have mean 0 and mean variance 1."""
        self.network.set_scale(features.to(best_device().device))

    def with_head(self, weight: Tensor, bias: Tensor) -> "Extractor":
        """The extractor with a linear classifier, `[num_classes, num_features]` and `[num_classes]`, on its features."""
        network = _new_network(replace(self.config, num_classes=len(bias)), seed=0).to(best_device().device)
        network.load_state_dict(self.network.state_dict() | {"head.weight": weight, "head.bias": bias})
        return Extractor(replace(self.config, num_classes=len(bias)), network.eval())

    @torch.no_grad()
    def classes(self, features: Tensor) -> Tensor:
        """The most probable class of each row of features, int64 `[n]`.

        Raises:
            FoundryError: the extractor is no classifier.
        """
        return self.network.logits(features.to(best_device().device)).argmax(dim=1).cpu()


def extractor_config(params: FeaturesParams, info: DatasetInfo) -> ExtractorConfig:
    """The configuration that `params` ask for; `auto` is a classifier if the data set has classes.

    Raises:
        FoundryError: a classifier is requested for fewer than two classes.
    """
    kind = params.extractor
    if kind == "auto":
        kind = "classifier" if info.num_classes > 1 else "efficientnet_lite0"
    if kind == "classifier" and info.num_classes < 2:
        raise FoundryError(
            f"params.yaml: features.extractor: classifier needs at least two classes (the data set has "
            f"{info.num_classes}); choose auto, efficientnet_lite0 or random"
        )
    num_classes = info.num_classes if kind == "classifier" else 0
    return ExtractorConfig(kind=kind, image_size=info.image_size, channels=info.channels, num_classes=num_classes)


def make_extractor(config: ExtractorConfig, params: FeaturesParams, images: Subset) -> Extractor:
    """Build an extractor; a classifier is trained on `images`, with a progress bar on standard error.

    The first `NUM_FOR_SCALE` of `images` set the scale of the features.
    """
    network = _new_network(config, params.seed).to(best_device().device)
    if isinstance(network, EfficientNetLite0):
        network.load_imagenet_weights()
    elif config.num_classes:
        num_images = min(params.num_images, MAX_EPOCHS * len(images))
        train_classifier(network, images, num_images=num_images, seed=params.seed)
    extractor = Extractor(config, network.eval())
    extractor.set_scale(extractor.features(images[:NUM_FOR_SCALE]))
    return extractor


def train_classifier(network: ConvNet, images: Subset, *, num_images: int, seed: int) -> None:
    """Train on the labels of `images` for `num_images` images, repeats included."""
    batch_size = min(BATCH_SIZE, len(images))
    num_steps = max(1, num_images // batch_size)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    network.train()
    batches = itertools.islice(_shuffled(images, batch_size, np.random.default_rng(seed)), num_steps)
    bar = progress_bar(batches, name="classifier", unit="batches", total=num_steps)
    for step, batch in enumerate(bar):
        progress = (step + 0.5) / num_steps
        optimiser.param_groups[0]["lr"] = PEAK_LEARNING_RATE * min(progress / RISE, (1 - progress) / (1 - RISE))
        x = _pixels(batch[:])
        loss = F.cross_entropy(network.logits(network.features(x)), _labels(batch).to(x.device))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimiser.step()


def save_extractor(folder: Path, extractor: Extractor) -> str:
    """Write `extractor.safetensors` and `extractor.json` into `folder`; returns the digest of the weights."""
    save_tensors(folder / WEIGHTS, extractor.network.state_dict())
    digest = file_digest(folder / WEIGHTS)
    num_features = extractor.network.num_features
    write_json(folder / DESCRIPTION, {**asdict(extractor.config), "num_features": num_features, "digest": digest})
    return digest


def load_extractor(folder: Path) -> Extractor:
    """Read and check what `save_extractor` wrote.

    Raises:
        ArtefactError: a file is missing or damaged, or does not fit the other.
    """
    document = _read_description(folder / DESCRIPTION)
    found, wanted = file_digest(folder / WEIGHTS), document["digest"]
    if found != wanted:
        raise ArtefactError(f"{folder / WEIGHTS}: SHA-256 is {found}, {DESCRIPTION} wants {wanted}")
    config = ExtractorConfig(**{name: document[name] for name in ExtractorConfig.__slots__})
    network = _new_network(config, seed=0)
    try:
        network.load_state_dict(load_tensors(folder / WEIGHTS))
    except RuntimeError as error:
        raise ArtefactError(f"{folder / WEIGHTS}: does not fit {DESCRIPTION}: {error}") from None
    return Extractor(config, network.to(best_device().device).eval())


def _new_network(config: ExtractorConfig, seed: int) -> EfficientNetLite0 | ConvNet:
    if config.kind == "efficientnet_lite0":
        return EfficientNetLite0(image_size=config.image_size, num_classes=config.num_classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ConvNet(image_size=config.image_size, channels=config.channels, num_classes=config.num_classes)
        for weight in network.parameters():
            # He et al. 2015: activations keep their scale, in an untrained network too.
            if weight.dim() > 1:
                nn.init.kaiming_normal_(weight, nonlinearity="relu")
        return network


def _pixels(images: NDArray[np.uint8]) -> Tensor:
    """Images as input of the networks, those with alpha on white and on black, on the best device."""
    return to_unit_range(torch.tensor(on_both(images), device=best_device().device)).permute(0, 3, 1, 2)


def _labels(batch: Subset) -> Tensor:
    if batch.labels is None:
        raise FoundryError("params.yaml: features.extractor: a classifier needs labels, but the data set has none")
    return torch.from_numpy(batch.labels)


def _shuffled(images: Subset, batch_size: int, random: np.random.Generator) -> Iterator[Subset]:
    """Yield batches without end; each epoch in a new order, without its incomplete last batch."""
    while True:
        order = random.permutation(images.rows)
        for start in range(0, len(order) - batch_size + 1, batch_size):
            yield Subset(images.split, order[start : start + batch_size])


def _read_description(path: Path) -> dict[str, Any]:
    document = read_document(path)
    wanted = {*ExtractorConfig.__slots__, "num_features", "digest"}
    if set(document) != wanted:
        raise ArtefactError(f"{path}: should hold {', '.join(sorted(wanted))} (got {', '.join(sorted(document))})")
    if document["kind"] not in get_args(Kind):
        raise ArtefactError(f"{path}: kind: should be {', '.join(get_args(Kind))} (got {document['kind']!r})")
    try:
        return {**document, "image_size": image_size(document["image_size"])}
    except ValueError as error:
        raise ArtefactError(f"{path}: {error}") from None
