import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.diffusion.unet import UNet, UNetConfig
from pipeline.training.muon import Muon, orthogonalised


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
def test_singular_values_come_near_1_and_singular_vectors_stay(rows: int, columns: int, seed: int) -> None:
    generator, rank = torch.Generator().manual_seed(seed), min(rows, columns)
    U, _, Vh = torch.linalg.svd(
        torch.randn(rows, columns, dtype=torch.float64, generator=generator), full_matrices=False
    )
    # Not below 0.01 of the largest, so that all are above 0.003 once the matrix has norm 1.
    S = 0.01 + 0.99 * torch.rand(rank, dtype=torch.float64, generator=generator)
    found = U.mT @ orthogonalised([(U * S) @ Vh * 100])[0] @ Vh.mT
    torch.testing.assert_close(found, torch.diag(found.diagonal()), atol=1e-8, rtol=0)
    assert ((found.diagonal() > 0.68) & (found.diagonal() < 1.21)).all()


def test_a_matrix_of_zeros_stays_so() -> None:
    assert not orthogonalised([torch.zeros(3, 5)])[0].any()


def test_matrices_among_others_are_what_they_are_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 9), (9, 4), (4, 4), (4, 9), (2, 30), (9, 9)]
    matrices = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    for matrix, found in zip(matrices, orthogonalised(matrices), strict=True):
        torch.testing.assert_close(found, orthogonalised([matrix])[0])


def _network() -> UNet:
    torch.manual_seed(0)
    return UNet(UNetConfig(widths=(8, 16), num_blocks=1), image_size=8, channels=1, num_classes=0)


def _optimiser(network: UNet, *, weight_decay: float = 0.0) -> Muon:
    return Muon(network, learning_rate=0.02, adam_learning_rate=1e-3, weight_decay=weight_decay)


def _random_gradients(network: UNet, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator) * torch.rand((), generator=generator)


def test_a_step_of_a_convolution_is_as_long_as_its_shape_says_whatever_its_gradient() -> None:
    network = _network()
    optimiser = _optimiser(network)
    before = {name: weight.detach().clone() for name, weight in optimiser.matrices.items()}
    _random_gradients(network, 1)
    optimiser.step(0.5)
    for name, weight in optimiser.matrices.items():
        change = (weight.detach() - before[name]).flatten(1)
        rows, columns = change.shape
        length = 0.5 * 0.02 * max(1.0, rows / columns) ** 0.5
        values = torch.linalg.svdvals(change) / length
        assert ((values > 0.6) & (values < 1.25)).all(), name


def test_every_weight_has_one_kind_of_update_and_convolutions_inside_have_muon() -> None:
    network = _network()
    optimiser = _optimiser(network)
    assert optimiser.matrices.keys() | optimiser.others.keys() == dict(network.named_parameters()).keys()
    assert not optimiser.matrices.keys() & optimiser.others.keys()
    assert {"inward.weight", "outward.weight"} <= optimiser.others.keys()
    assert all(weight.ndim == 4 for weight in optimiser.matrices.values())


def test_weight_decay_draws_all_weights_to_zero_where_there_is_no_gradient() -> None:
    network = _network()
    optimiser = _optimiser(network, weight_decay=0.1)
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    for weight in network.parameters():
        weight.grad = torch.zeros_like(weight)
    optimiser.step(1.0)
    for name, weight in network.named_parameters():
        rate = 0.02 if name in optimiser.matrices else 1e-3
        torch.testing.assert_close(weight.detach(), before[name] * (1 - rate * 0.1))


def test_an_optimiser_that_took_over_a_state_makes_the_same_steps() -> None:
    networks = [_network(), _network()]
    first, second = (_optimiser(network, weight_decay=0.01) for network in networks)
    for seed in range(3):
        _random_gradients(networks[0], seed)
        first.step(1.0)
    networks[1].load_state_dict(networks[0].state_dict())
    second.restore({name: tensor.clone() for name, tensor in first.state().items()})
    for network, optimiser in zip(networks, (first, second), strict=True):
        _random_gradients(network, 7)
        optimiser.step(1.0)
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(one, other)
