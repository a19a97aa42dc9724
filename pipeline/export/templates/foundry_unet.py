# ruff: noqa: INP001  an exported folder is no package
"""The network as a component that diffusers loads and saves."""

from typing import Any

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from .foundry_network import UNet, UNetConfig  # type: ignore[import-not-found]  # an export puts it there


class FoundryUNet(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers is untyped
    """Predicts the training target from noisy images, their noise levels `t` and their classes."""

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers is untyped
    def __init__(
        self,
        *,
        image_size: int | list[int],
        channels: int,
        num_classes: int,
        num_timesteps: int | None,
        architecture: dict[str, Any],
    ) -> None:
        super().__init__()
        config = UNetConfig(**{**architecture, "widths": tuple(architecture["widths"])})
        self.network = UNet(
            config, image_size=image_size, channels=channels, num_classes=num_classes, num_timesteps=num_timesteps
        )

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        out: Tensor = self.network(x, t, labels)
        return out
