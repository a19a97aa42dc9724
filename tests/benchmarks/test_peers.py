from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.peer_training import train_with_our_recipe
from benchmarks.peers import NETWORKS, SAMPLERS, draw_with_peer, peer_network
from benchmarks.systems import Workspace
from pipeline.device import Device
from pipeline.errors import FoundryError
from pipeline.training.loop import Training
from pipeline.training.pace import cosine_table
from tests.small_sets import PARAMS, split_of

INSTALLED = [peer for peer in NETWORKS if peer == "diffusers" or find_spec("denoising_diffusion_pytorch")]
MILLIONS = {"diffusers": 1.7, "ddp": 2.6}
"""Published numbers of weights."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("peer", INSTALLED)
def test_a_network_has_its_published_size(peer: str) -> None:
    weights = peer_network(peer, 0).weights()
    assert round(sum(weight.numel() for weight in weights.values()) / 1e6, 1) == MILLIONS[peer]


@pytest.mark.parametrize("peer", INSTALLED)
def test_networks_with_equal_weights_predict_the_same(peer: str) -> None:
    one, other = peer_network(peer, 10, seed=1).eval(), peer_network(peer, 10, seed=2).eval()
    x, t, labels = torch.randn(2, 1, 28, 28), torch.tensor([0, 999]), torch.tensor([3, 10])
    with torch.no_grad():
        assert not torch.equal(one(x, t, labels), other(x, t, labels))
        other.load_weights(one.weights())
        assert torch.equal(one(x, t, labels), other(x, t, labels))
        assert not torch.equal(one(x, t, labels), one(x, t, torch.tensor([4, 10])))


@pytest.mark.parametrize("peer", INSTALLED)
def test_a_network_for_other_images_has_their_shape(peer: str) -> None:
    network = peer_network(peer, 10, (16, 24, 3))
    x = torch.randn(2, 3, 16, 24)
    with torch.no_grad():
        assert network(x, torch.tensor([0, 999]), torch.tensor([3, 10])).shape == x.shape
    with torch.no_grad():
        assert SAMPLERS[peer](peer_network(peer, 0, (16, 16, 3)), 2)(2).shape == (2, 16, 16, 3)


@pytest.mark.parametrize("peer", INSTALLED)
def test_our_recipe_trains_every_weight_of_a_network(peer: str) -> None:
    params = PARAMS.train.model_copy(update={"num_images": 8, "batch_size": 4, "num_snapshots": 1})
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), np.uint8)
    network, device = peer_network(peer, 2, (8, 8, 1)), Device(torch.device("cpu"), autocast=False, compile=False)
    before = {name: weight.clone() for name, weight in network.weights().items()}
    table = cosine_table(params.weighting)
    deque(Training(params, network, table, split_of(images, np.arange(8) % 2), device).steps(), maxlen=0)
    still = {name for name, weight in network.weights().items() if torch.equal(weight, before[name])}
    # Our recipe drops classes itself: "no class" is one more class of the network.
    assert still <= {"network.null_classes_emb"}


def test_augmentation_is_refused_since_a_peers_network_has_no_input_for_it(tmp_path: Path) -> None:
    augmented = PARAMS.train.model_copy(update={"augmentation": replace(PARAMS.train.augmentation, kinds=("shift",))})
    workspace = Workspace(tmp_path, tmp_path, PARAMS.model_copy(update={"train": augmented}))
    with pytest.raises(FoundryError, match=r"train\.augmentation\.kinds: should be \[\]"):
        train_with_our_recipe("diffusers", workspace, 1, 0, tmp_path)


@pytest.mark.parametrize("peer", INSTALLED)
def test_muon_trains_all_convolutions_but_the_first_and_the_last(peer: str) -> None:
    network = peer_network(peer, 10)
    convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    # In both networks the first maps from one channel and the last to one.
    ends = [module for module in convolutions if 1 in (module.in_channels, module.out_channels)]
    assert len(ends) == 2
    assert len(network.hidden_matrices()) == len(convolutions) - 2
    assert not {id(end.weight) for end in ends} & {id(weight) for weight in network.hidden_matrices()}


def test_diffusers_network_normalises_in_float32_when_it_multiplies_in_bfloat16() -> None:
    # The other peer has no group normalisation.
    network = peer_network("diffusers", 10)
    precisions = {torch.nn.Conv2d: set(), torch.nn.GroupNorm: set()}
    for module in network.modules():
        if (seen := precisions.get(type(module))) is not None:
            module.register_forward_hook(lambda _module, _inputs, output, seen=seen: seen.add(output.dtype))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(2, 1, 28, 28), torch.tensor([0, 999]), torch.tensor([3, 10]))
    assert precisions == {torch.nn.Conv2d: {torch.bfloat16}, torch.nn.GroupNorm: {torch.float32}}


def test_images_are_drawn_in_batches_and_depend_on_the_seed() -> None:
    sizes = []

    def sample(count: int) -> np.ndarray:
        sizes.append(count)
        return torch.randint(256, (count, 2, 2, 1)).to(torch.uint8).numpy()

    images = draw_with_peer(sample, 130, seed=1)
    assert sizes == [64, 64, 2]
    assert images.shape == (130, 2, 2, 1)
    assert np.array_equal(images, draw_with_peer(sample, 130, seed=1))
    assert not np.array_equal(images, draw_with_peer(sample, 130, seed=2))
