"""What a training takes over from its ancestor, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.artefacts.model import DataSpec, Description, Model, build_network, load_model
from pipeline.artefacts.sampling_defaults import DEFAULT_SAMPLING
from pipeline.diffusion.betas import cosine_betas, linear_betas
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.errors import ArtefactError, FoundryError
from pipeline.params import load_params
from pipeline.training.ancestor import descendant, load_ancestor
from tests.small_sets import SMALL_NETWORK

DATA = DataSpec(image_size=8, channels=1, class_names=("cat", "dog", "eel"), sigma_data=0.5)
ANCESTOR = Description(data=DATA, network=SMALL_NETWORK, target="v", sampling=DEFAULT_SAMPLING)


SCHEDULE = NoiseSchedule(cosine_betas(50))


@torch.no_grad()
def ancestor(description: Description = ANCESTOR, num_timesteps: int | None = 50) -> Model:
    """With random weights, and as gains of the linear path the numbers of the noise levels."""
    network = build_network(description, seed=1, num_timesteps=num_timesteps)
    if network.linear is not None:
        network.linear.gains.copy_(torch.arange(50.0)[:, None])
    return Model(description, network, SCHEDULE, digest="a" * 64)


@pytest.mark.parametrize("num_timesteps", [50, None])
def test_a_network_begins_with_all_weights_of_its_ancestor(num_timesteps: int | None) -> None:
    description, model = (
        replace(ANCESTOR, network=replace(ANCESTOR.network, dropout=0.1)),
        ancestor(ANCESTOR, num_timesteps),
    )
    found, wanted = descendant(description, SCHEDULE, model).state_dict(), model.network.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_classes_are_inherited_by_their_names_and_a_new_one_begins_as_no_class() -> None:
    description, model = replace(ANCESTOR, data=replace(DATA, class_names=("ant", "dog", "cat", "fox"))), ancestor()
    cat, dog, _, null = model.network.state_dict()["label.weight"]
    found = descendant(description, SCHEDULE, model).state_dict()["label.weight"]
    assert torch.equal(found, torch.stack([null, dog, cat, null, null]))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (replace(ANCESTOR, network=replace(SMALL_NETWORK, widths=(16,))), r"train\.network .*widths=\(16,\).* for "),
        (replace(ANCESTOR, data=replace(DATA, image_size=16)), r"channels, height and width \(1, 16, 16\) for"),
        (replace(ANCESTOR, data=replace(DATA, class_names=None)), "classes False for True"),
        (replace(ANCESTOR, target="x0"), r"train\.target x0 for v"),
        (replace(ANCESTOR, provenance={"teacher": {"digest": "b" * 64}}), "the ancestor is a student"),
    ],
)
def test_weights_of_another_kind_of_model_are_refused_with_the_difference(found: Description, said: str) -> None:
    with pytest.raises(FoundryError, match=rf"ancestor\.digest: .*{said}.*foundry set ancestor\.digest=null"):
        descendant(ANCESTOR, SCHEDULE, ancestor(found))


def test_weights_for_another_noise_schedule_are_refused() -> None:
    with pytest.raises(FoundryError, match="noise schedule"):
        descendant(ANCESTOR, NoiseSchedule(linear_betas(50)), ancestor())


def test_an_ancestor_is_the_model_that_params_name_and_no_other(small_model: Path) -> None:
    digest = load_model(small_model).digest
    assert load_ancestor(small_model, digest).digest == digest
    with pytest.raises(ArtefactError, match=rf"small_model: model {digest[:12]}, ancestor\.digest wants {'0' * 12}"):
        load_ancestor(small_model, "0" * 64)
    with pytest.raises(ArtefactError, match=r"nowhere: not found, .*foundry set --start-from champion"):
        load_ancestor(small_model / "nowhere", digest)


def test_only_a_training_with_an_ancestor_is_shorter_and_gentler(root: Path) -> None:
    params = load_params(root / "tests" / "params.yaml")
    assert params.training == params.train
    begun = params.ancestor.model_copy(update={"digest": "a" * 64, "train_share": 0.25, "learning_rate_ratio": 0.5})
    training = params.model_copy(update={"ancestor": begun}).training
    assert training.num_images == params.train.num_images / 4
    assert training.learning_rate == params.train.learning_rate / 2
    assert training.adam_learning_rate == params.train.adam_learning_rate / 2
    assert training.seed == params.train.seed
