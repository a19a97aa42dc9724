"""One seed and one generator per image, so that its noise never depends on its neighbours.

NumPy's generators, not torch's: torch's CPU generator reads only the low 32 bits of a seed, so that seeds s and
s + 2^32 would draw the same picture.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

NUM_SEEDS = 2**63
NUM_DERIVED_SEEDS = 2**53
"""Derived seeds stay below this, so that they are exact as float64, the only number type of JavaScript and many tables."""


def image_seed(seed: int, index: int) -> int:
    """Seed of image `index` of a draw with `seed`: the seed itself for index 0, else a mix of both.

    Image i of a draw can be drawn alone, as the only image of a draw with this seed. NumPy's `SeedSequence`
    (O'Neill's seed_seq) mixes the two numbers, so draws with neighbouring seeds share no image.

    Args:
        seed: of the draw, in 0 … 2^63 - 1.
        index: of the image, from 0.
    """
    if index == 0:
        return seed
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0]) % NUM_DERIVED_SEEDS


def image_generator(seed: int) -> np.random.Generator:
    """The generator of the image with this seed in 0 … 2^63 - 1."""
    return np.random.Generator(np.random.PCG64(seed))


def normal_rows(rows: Sequence[np.random.Generator], shape: tuple[int, int, int]) -> Float[Tensor, "rows c h w"]:
    """The next float32 standard normal draw of every row, on the CPU, so that every device sees the same noise."""
    return torch.from_numpy(np.stack([row.standard_normal(shape, dtype=np.float32) for row in rows]))
