import pytest
import torch

from pipeline.diffusion.ema import Ema
from pipeline.evaluation.tuning.apply import average_weights


@pytest.mark.parametrize("width", [0.05, 0.07, 0.1])
def test_an_average_from_snapshots_is_the_one_that_training_would_have_kept(width: float) -> None:
    generator, weight = torch.Generator().manual_seed(0), torch.zeros(50)
    ema, snapshots = Ema({"a.b": weight}, [0.05, 0.1, width]), {}
    for step in range(1, 401):
        weight = weight + torch.randn(50, generator=generator)
        ema.update({"a.b": weight})
        if step % 50 == 0:
            snapshots |= {f"{step}/{w}/a.b": ema.tracks[i]["a.b"].clone() for i, w in enumerate((0.05, 0.1))}
    found, wanted = average_weights(snapshots, width)["a.b"], ema.tracks[2]["a.b"]
    # The walk has come about 20 far; the last two tracks differ by about 4.
    assert (found - wanted).square().mean().sqrt() < 0.2
