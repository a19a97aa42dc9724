"""Warm start: a training that starts from the weights of a registered model, its ancestor, instead of random ones.

New images change a model little, so a share of the usual training is enough (`benchmarks.warm_start`). The ancestor is
a model folder below data/, a dependency of the stage `train`, and params.yaml holds its digest. The alias `champion`
would not do: it moves unnoticed by DVC, whose run cache would then return weights trained from another ancestor.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from pipeline.artefacts.model import Description, Model, build_network, load_model
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.unet import UNet, UNetConfig
from pipeline.errors import ArtefactError, FoundryError

MODEL = "model"
"""Name of the model folder in data/ancestor, beside which DVC keeps `model.dvc`."""
LABELS = "label.weight"
"""Weights of the network with a row for each class, and the last for the null class."""
REMEDY = (
    "`foundry set --start-from champion` or `dvc pull data/ancestor/model.dvc` gets it, "
    "`foundry set ancestor.digest=null` trains without one"
)


def load_ancestor(folder: Path, digest: str) -> Model:
    """Read the model in `folder` and check that it has this digest.

    Raises:
        ArtefactError: it is missing or damaged, or has another digest.
    """
    if not folder.exists():
        raise ArtefactError(f"{folder}: not found, ancestor.digest wants model {digest[:12]}; {REMEDY}")
    model = load_model(folder)
    if model.digest != digest:
        raise ArtefactError(f"{folder}: model {model.digest[:12]}, ancestor.digest wants {digest[:12]}; {REMEDY}")
    return model


def descendant(description: Description, schedule: NoiseSchedule, ancestor: Model) -> UNet:
    """A network with the ancestor's weights; a class that the ancestor does not know starts from the null class.

    Args:
        description: of the model to be trained.
        schedule: its noise schedule.
        ancestor: a model with the same architecture, image shape, target and noise schedule.

    Raises:
        FoundryError: the ancestor differs in one of them, or is a student.
    """
    if differences := list(_differences(description, schedule, ancestor)):
        raise FoundryError(
            f"ancestor.digest: weights that do not fit: {'; '.join(differences)}; "
            "`foundry set ancestor.digest=null` trains without them"
        )
    # With a linear path only if the ancestor has one, since its other weights were trained beside it.
    network = build_network(description, seed=0, num_timesteps=ancestor.network.num_timesteps)
    weights = dict(ancestor.network.state_dict())
    if description.data.class_names is not None:
        weights[LABELS] = weights[LABELS][_rows(description.data.class_names, ancestor)]
    network.load_state_dict(weights)
    return network


def _differences(description: Description, schedule: NoiseSchedule, ancestor: Model) -> Iterator[str]:
    if ancestor.description.is_distilled:
        yield "the ancestor is a student, which denoises at few noise levels alone"
    ours, theirs = description.data, ancestor.description.data
    facts = {
        "train.network": (_architecture(description.network), _architecture(ancestor.description.network)),
        "channels, height and width": (ours.shape, theirs.shape),
        "classes": (ours.class_names is not None, theirs.class_names is not None),
        "train.target": (description.target, ancestor.description.target),
        "noise schedule": (schedule.digest[:12], ancestor.schedule.digest[:12]),
    }
    for name, (wanted, found) in facts.items():
        if found != wanted:
            yield f"{name} {found} for {wanted}"


def _architecture(network: UNetConfig) -> UNetConfig:
    """The settings that determine the shapes of weights."""
    return replace(network, dropout=0.0)


def _rows(class_names: tuple[str, ...], ancestor: Model) -> torch.Tensor:
    """The ancestor's row for each class, by name, and for the null class."""
    theirs = ancestor.description.data
    known = {name: row for row, name in enumerate(theirs.class_names or ())}
    return torch.tensor([*(known.get(name, theirs.num_classes) for name in class_names), theirs.num_classes])
