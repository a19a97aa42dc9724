from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.convolutions import convolutions_of, measured_peak
from pipeline.diffusion.unet import UNet
from tests.small_sets import SMALL_NETWORK


def test_the_number_of_operations_equals_torchs_count() -> None:
    network = UNet(replace(SMALL_NETWORK, widths=(8, 16)), image_size=8, channels=1, num_classes=0)
    x, t = torch.randn(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64)
    found = convolutions_of(network, lambda: network(x, t, None))
    with FlopCounterMode(display=False) as counter:
        network(x, t, None)
    wanted = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
    assert sum(2 * count * shape.multiply_adds for shape, count in found.items()) == wanted


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_training_step_has_three_passes_of_every_convolution_but_the_first(dtype: torch.dtype) -> None:
    first, second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1)
    network = nn.Sequential(first, second)
    x = torch.randn(2, 1, 6, 6)
    found = convolutions_of(network, lambda: network(x))
    weights = list(network.parameters())
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(network(x).sum(), [*weights])
    peak = measured_peak(found, rounds=1, dtype=dtype)
    assert peak.flops == counter.get_total_flops()
    assert peak.seconds > 0
