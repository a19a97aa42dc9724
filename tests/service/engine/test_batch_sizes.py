from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.artefacts.model import Model, load_model
from pipeline.errors import FoundryError
from service.engine.batch_sizes import BatchSizes, measure_batch_sizes
from tests.fakes import elementwise_denoiser

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Model:
    return load_model(model_folder)


def test_an_elementwise_denoiser_is_exact_in_every_size(model: Model) -> None:
    assert measure_batch_sizes(model, elementwise_denoiser, 5, CPU).exact == (1, 2, 3, 4, 5)


def test_sizes_that_round_differently_are_excluded(model: Model) -> None:
    def rounds_differently(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        return elementwise_denoiser(x, t, labels) * (1 + 1e-7 * (len(x) < 3))

    assert measure_batch_sizes(model, rounds_differently, 6, CPU).exact == (3, 4, 5, 6)


def test_a_network_whose_rows_depend_on_their_position_is_refused(model: Model) -> None:
    def depends_on_position(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        del t, labels
        return x + torch.arange(len(x))[:, None, None, None]

    with pytest.raises(FoundryError, match="in batches of 4, a row .* depends on its position"):
        measure_batch_sizes(model, depends_on_position, 4, CPU)


def test_every_size_is_timed_and_the_largest_is_always_exact(model: Model) -> None:
    denoiser = model.denoiser()
    sizes = measure_batch_sizes(model, denoiser, 8, CPU)
    assert sizes.exact[-1] == 8
    assert list(sizes.call_sec) == list(range(1, 9))
    assert all(seconds > 0 for seconds in sizes.call_sec.values())


def test_exact_batches_are_padded_and_fast_ones_are_not() -> None:
    sizes = BatchSizes(exact=(4, 8), call_sec={})
    assert [sizes.size_for(rows, is_exact=True) for rows in (1, 4, 5, 8)] == [4, 4, 8, 8]
    assert [sizes.size_for(rows, is_exact=False) for rows in (1, 4, 5, 8)] == [1, 4, 5, 8]
