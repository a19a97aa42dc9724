from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.artefacts.model import Model, load_model
from pipeline.errors import FoundryError
from service.engine.batch_sizes import Batches, try_batches
from tests.fakes import elementwise_denoiser

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Model:
    return load_model(model_folder)


def test_an_elementwise_denoiser_is_exact_in_every_size(model: Model) -> None:
    assert try_batches(model, elementwise_denoiser, 5, CPU).exact == (1, 2, 3, 4, 5)


def test_sizes_that_round_otherwise_are_found(model: Model) -> None:
    def rounds_otherwise(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        return elementwise_denoiser(x, t, labels) * (1 + 1e-7 * (len(x) < 3))

    assert try_batches(model, rounds_otherwise, 6, CPU).exact == (3, 4, 5, 6)


def test_a_network_that_looks_at_the_place_in_the_batch_is_refused(model: Model) -> None:
    def looks_around(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        del t, labels
        return x + torch.arange(len(x))[:, None, None, None]

    with pytest.raises(FoundryError, match="other bits at another place of a batch of 4"):
        try_batches(model, looks_around, 4, CPU)


def test_every_size_is_timed_and_the_largest_is_always_exact(model: Model) -> None:
    denoiser = model.denoiser()
    batches = try_batches(model, denoiser, 8, CPU)
    assert batches.exact[-1] == 8
    assert list(batches.call_sec) == list(range(1, 9))
    assert all(seconds > 0 for seconds in batches.call_sec.values())


def test_exact_rows_are_filled_up_and_others_are_not() -> None:
    batches = Batches(exact=(4, 8), call_sec={})
    assert [batches.size(rows, is_exact=True) for rows in (1, 4, 5, 8)] == [4, 4, 8, 8]
    assert [batches.size(rows, is_exact=False) for rows in (1, 4, 5, 8)] == [1, 4, 5, 8]
