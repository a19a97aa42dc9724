import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.diffusion.seeds import NUM_DERIVED_SEEDS, NUM_SEEDS, image_generator, image_seed, normal_rows

seeds = st.integers(0, NUM_SEEDS - 1)


@given(seeds, st.integers(1, 1000))
def test_every_image_can_be_drawn_alone_by_its_own_seed(seed: int, index: int) -> None:
    own = image_seed(seed, index)
    assert 0 <= own < NUM_DERIVED_SEEDS
    assert image_seed(own, 0) == own


@given(seeds, st.integers(1, 1000))
def test_a_derived_seed_is_exact_in_a_float64(seed: int, index: int) -> None:
    own = image_seed(seed, index)
    assert int(float(own)) == own


def test_draws_with_neighbouring_seeds_share_no_image() -> None:
    drawn = [image_seed(seed, index) for seed in range(100) for index in range(100)]
    assert len(set(drawn)) == len(drawn)


def test_seeds_that_differ_in_high_bits_draw_different_noise() -> None:
    low, high = (normal_rows([image_generator(seed)], (1, 4, 4)) for seed in (7, 7 + 2**32))
    assert not torch.equal(low, high)


@given(st.lists(seeds, min_size=1, max_size=6, unique=True), st.data())
def test_noise_of_a_row_does_not_depend_on_its_neighbours(together: list[int], data: st.DataObject) -> None:
    row = data.draw(st.integers(0, len(together) - 1))
    alone = normal_rows([image_generator(together[row])], (3, 5, 5))[0]
    assert torch.equal(normal_rows([image_generator(seed) for seed in together], (3, 5, 5))[row], alone)


def test_noise_is_standard_normal() -> None:
    noise = normal_rows([image_generator(seed) for seed in range(200)], (1, 28, 28)).numpy().ravel()
    n = len(noise)
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 4 / np.sqrt(n)
    assert abs(noise.var() - 1) < 4 * np.sqrt(2 / n)
