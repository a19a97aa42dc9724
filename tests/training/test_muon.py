import copy
from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Parameter

from pipeline.diffusion.unet import UNet
from pipeline.training.muon import Muon, orthogonalise
from tests.small_sets import SMALL_NETWORK

SHAPES = [(8, 4, 3, 3), (4, 8, 3, 3), (16, 4, 1, 1), (4, 4, 3, 3)]


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
def test_singular_values_come_near_1_and_singular_vectors_stay(rows: int, columns: int, seed: int) -> None:
    generator, rank = torch.Generator().manual_seed(seed), min(rows, columns)
    U, _, Vh = torch.linalg.svd(
        torch.randn(rows, columns, dtype=torch.float64, generator=generator), full_matrices=False
    )
    # Not below 0.01 of the largest, so that all are above 0.003 once the matrix has norm 1.
    S = 0.01 + 0.99 * torch.rand(rank, dtype=torch.float64, generator=generator)
    found = U.mT @ orthogonalise([(U * S) @ Vh * 100])[0] @ Vh.mT
    torch.testing.assert_close(found, torch.diag(found.diagonal()), atol=1e-8, rtol=0)
    assert ((found.diagonal() > 0.68) & (found.diagonal() < 1.21)).all()


def test_a_matrix_of_zeros_stays_zero() -> None:
    assert not orthogonalise([torch.zeros(3, 5)])[0].any()


def test_a_matrix_has_the_same_result_alone_and_among_others() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 9), (9, 4), (4, 4), (4, 9), (2, 30), (9, 9)]
    matrices = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    for matrix, found in zip(matrices, orthogonalise(matrices), strict=True):
        torch.testing.assert_close(found, orthogonalise([matrix])[0])


def _weights() -> list[Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def _set_gradients(weights: list[Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=generator) * torch.rand((), generator=generator)


def _copies(weights: list[Parameter]) -> list[Tensor]:
    return [weight.detach().clone() for weight in weights]


def test_the_length_of_an_update_depends_on_the_shape_and_not_on_the_gradient() -> None:
    weights = _weights()
    before = _copies(weights)
    _set_gradients(weights, 1)
    Muon(weights, 0.01).step()
    for weight, old in zip(weights, before, strict=True):
        change = (weight.detach() - old).flatten(1)
        rows, columns = change.shape
        values = torch.linalg.svdvals(change) / (0.01 * max(1.0, rows / columns) ** 0.5)
        assert ((values > 0.6) & (values < 1.25)).all()


def test_weight_decay_shrinks_weights_that_have_a_gradient_of_zero_and_skips_those_that_have_none() -> None:
    weights = _weights()
    before = _copies(weights)
    for weight in weights[1:]:
        weight.grad = torch.zeros_like(weight)
    Muon(weights, 0.02, weight_decay=0.1).step()
    assert torch.equal(weights[0], before[0])
    for weight, old in zip(weights[1:], before[1:], strict=True):
        torch.testing.assert_close(weight.detach(), old * (1 - 0.02 * 0.1))


def test_a_param_group_has_its_own_learning_rate() -> None:
    weights = _weights()
    before = _copies(weights)
    _set_gradients(weights, 1)
    Muon([{"params": weights[:2]}, {"params": weights[2:], "lr": 0.0}], 0.02).step()  # type: ignore[list-item]
    assert [torch.equal(weight, old) for weight, old in zip(weights, before, strict=True)] == [False, False, True, True]


def test_an_optimiser_that_loads_a_state_makes_the_same_steps() -> None:
    one, other = _weights(), _weights()
    first, second = Muon(one, 0.02, weight_decay=0.01), Muon(other, 0.5)
    for seed in range(3):
        _set_gradients(one, seed)
        first.step()
    for weight, trained in zip(other, one, strict=True):
        weight.data.copy_(trained)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for weights, optimiser in ((one, first), (other, second)):
        _set_gradients(weights, 7)
        optimiser.step()
    assert all(torch.equal(weight, trained) for weight, trained in zip(other, one, strict=True))


def test_a_closure_is_evaluated_with_gradients_before_the_step() -> None:
    weight = _weights()[0]

    def closure() -> float:
        loss = weight.square().sum()
        loss.backward()
        return loss.item()

    wanted = weight.square().sum().item()
    assert Muon([weight], 0.02).step(closure) == wanted
    assert weight.square().sum().item() < wanted


def test_the_hidden_matrices_of_the_unet_are_its_convolutions_but_the_first_and_the_last() -> None:
    network = UNet(replace(SMALL_NETWORK, widths=(8, 16), attention=True), image_size=8, channels=1, num_classes=2)
    convolutions = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)]
    names = {id(weight): name.removesuffix(".weight") for name, weight in network.named_parameters()}
    hidden = [names[id(weight)] for weight in network.hidden_matrices()]
    assert sorted(hidden) == sorted(set(convolutions) - {"inward", "outward"})
