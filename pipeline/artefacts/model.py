"""The model folder: weights as safetensors, everything else as JSON, with a SHA-256 of each file.

The format is defined in docs/contracts.md. Nothing is pickled, and the loader rejects an invalid folder with an error
that names the file, the value found and the value wanted.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.artefacts.files import file_digest, read_document, write_json
from pipeline.artefacts.image_size import ImageSize, height_and_width, image_size
from pipeline.artefacts.sampling_defaults import SamplingDefaults
from pipeline.artefacts.tensors import load_tensors, save_tensors
from pipeline.diffusion.denoiser import NetworkDenoiser
from pipeline.diffusion.guidance_interval import ALL_STEPS, Interval
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.samplers import SAMPLERS, Sampler
from pipeline.diffusion.sampling import SamplerPlan, make_plan
from pipeline.diffusion.target import TARGETS, Target, check_target
from pipeline.diffusion.timetables import times_for
from pipeline.diffusion.unet import UNet, UNetConfig
from pipeline.errors import ArtefactError, FoundryError

FORMAT = 1
WEIGHTS, DESCRIPTION, SNAPSHOTS = "model.safetensors", "model.json", "snapshots.safetensors"
TEACHER = "teacher/"
"""Prefix of the names of a teacher's weights in the snapshots file of its student."""
ONNX = "denoiser.onnx"
"""The denoiser for ONNX Runtime, which `foundry model package` puts beside the model's files."""
EXPORT_TOLERANCE = 1e-4
"""Largest difference of a pixel in [-1, 1] between a model and an export of it."""
BETA = "schedule.beta"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSpec:
    """The images that the model was trained on."""

    image_size: ImageSize
    channels: int
    class_names: tuple[str, ...] | None
    """Names of the classes, indexed by label; None for a model without classes."""
    sigma_data: float
    """Standard deviation of the pixels in [-1, 1]."""

    @property
    def num_classes(self) -> int:
        return len(self.class_names or ())

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.channels, *height_and_width(self.image_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """The content of model.json except for the digests of files."""

    data: DataSpec
    network: UNetConfig
    target: Target
    sampling: SamplingDefaults
    timetables: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    """Network times t by sampler and number of steps."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """`teacher`, if there is one: digest and sampling of the model that this one is distilled from."""

    @property
    def is_distilled(self) -> bool:
        """Whether the model is a student, whose network is trained for its own sampling times only."""
        return "teacher" in self.provenance


@dataclass(frozen=True, eq=False)
class Model:
    """A model folder in memory; the network is in evaluation mode, on the CPU."""

    description: Description
    network: UNet
    schedule: NoiseSchedule
    digest: str
    """Digest of the weights and of the description without its provenance: models with equal digests draw the same images."""

    @property
    def null_label(self) -> int | None:
        """The class index for "no class"; None for a model without classes."""
        return self.description.data.num_classes or None

    def denoiser(self, device: torch.device | str = "cpu") -> NetworkDenoiser:
        """The network as a denoiser with clipping, moved to `device`."""
        network = self.network.to(device)
        return NetworkDenoiser(network, self.schedule, self.description.target, clip=True)


def build_network(description: Description, *, seed: int, num_timesteps: int | None = None) -> UNet:
    """Build a new network with weights drawn from `seed`; the state of torch's global generator is restored.

    With `num_timesteps` it has a linear path, which is zero.

    Raises:
        FoundryError: the image size does not divide into the network's patches and levels.
    """
    data = description.data
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return UNet(
                description.network,
                image_size=data.image_size,
                channels=data.channels,
                num_classes=data.num_classes,
                num_timesteps=num_timesteps,
            )
        except ValueError as error:
            raise FoundryError(f"train.network: {error}; prepare.image_size sets the size") from None


def save_model(
    folder: Path, description: Description, *, weights: Mapping[str, Tensor], schedule: NoiseSchedule
) -> str:
    """Write `model.safetensors` and `model.json` into `folder`, each atomically; returns the model digest."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / WEIGHTS, {**weights, BETA: schedule.beta})
    document = {
        "format": FORMAT,
        **asdict(description),
        "network": {"kind": "unet", **asdict(description.network)},
        "schedule": {"num_timesteps": schedule.num_timesteps, "digest": schedule.digest},
        "files": {WEIGHTS: file_digest(folder / WEIGHTS)},
    }
    write_json(folder / DESCRIPTION, document)
    return _digest(document)


def load_model(folder: Path) -> Model:
    """Read and check a model folder.

    Raises:
        ArtefactError: a file is missing, unreadable or changed, or inconsistent with the others.
    """
    document = _read_description(folder)
    _check_files(folder, document)
    description = _parse(folder / DESCRIPTION, document)
    tensors = load_tensors(folder / WEIGHTS)
    schedule = _schedule(folder, document, tensors.pop(BETA, None))
    check_target(description.target, schedule)
    network = _network(description, schedule, folder / WEIGHTS, tensors)
    return Model(description, network.eval().requires_grad_(requires_grad=False), schedule, _digest(document))


def teacher_of(student: Model, folder: Path) -> Model:
    """The model that a student was distilled from, with the weights that its folder keeps.

    Raises:
        ArtefactError: the file is missing or damaged, or lacks weights.
    """
    tensors = load_tensors(folder / SNAPSHOTS)
    weights = {name.removeprefix(TEACHER): tensor for name, tensor in tensors.items() if name.startswith(TEACHER)}
    network = _network(student.description, student.schedule, folder / SNAPSHOTS, weights)
    return replace(student, network=network.eval().requires_grad_(requires_grad=False))


def model_digest(folder: Path) -> str:
    """The digest of the model in `folder`, after checking its files."""
    document = _read_description(folder)
    _check_files(folder, document)
    return _digest(document)


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not path.exists():
        raise ArtefactError(f"{path}: not found, wanted the folder of a model, such as data/model of the stage `train`")
    document = read_document(path)
    if (found := document.get("format")) != FORMAT:
        raise ArtefactError(f"{path}: format {found!r}, this version reads format {FORMAT}")
    return document


def _check_files(folder: Path, document: Mapping[str, Any]) -> None:
    path = folder / DESCRIPTION
    files = document.get("files")
    if not isinstance(files, dict) or set(files) != {WEIGHTS}:
        raise ArtefactError(f"{path}: files: should name {WEIGHTS} and its SHA-256 (got {files!r})")
    found, wanted = file_digest(folder / WEIGHTS), files[WEIGHTS]
    if found != wanted:
        raise ArtefactError(f"{folder / WEIGHTS}: SHA-256 is {found}, {DESCRIPTION} wants {wanted}")


def _parse(path: Path, document: Mapping[str, Any]) -> Description:
    try:
        data, network = dict(document["data"]), dict(document["network"])
        if (kind := network.pop("kind")) != "unet":
            raise ValueError(f"network.kind {kind!r}, this version knows 'unet'")
        if (target := document["target"]) not in TARGETS:
            raise ValueError(f"target {target!r}, this version knows {', '.join(TARGETS)}")
        if (sampler := document["sampling"]["sampler"]) not in SAMPLERS:
            raise ValueError(f"sampling.sampler {sampler!r}, this version knows {', '.join(SAMPLERS)}")
        names, size = data.pop("class_names"), image_size(data.pop("image_size"))
        return Description(
            data=DataSpec(**data, image_size=size, class_names=None if names is None else tuple(names)),
            network=UNetConfig(**{**network, "widths": tuple(network["widths"])}),
            target=target,
            sampling=SamplingDefaults.of(document["sampling"]),
            timetables=parse_timetables(document["timetables"]),
            provenance=document["provenance"],
        )
    except KeyError as error:
        raise ArtefactError(f"{path}: {error.args[0]} is missing") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise ArtefactError(f"{path}: {error}") from None


def parse_timetables(document: Mapping[str, Mapping[str, Sequence[int]]]) -> dict[str, dict[str, tuple[int, ...]]]:
    """`Description.timetables` from JSON, where times are lists."""
    return {
        sampler: {steps: tuple(map(int, times)) for steps, times in by_steps.items()}
        for sampler, by_steps in document.items()
    }


def _schedule(folder: Path, document: Mapping[str, Any], beta: Tensor | None) -> NoiseSchedule:
    if beta is None:
        raise ArtefactError(f"{folder / WEIGHTS}: {BETA} is missing")
    try:
        schedule = NoiseSchedule(beta)
    except ValueError as error:
        raise ArtefactError(f"{folder / WEIGHTS}: {BETA}: {error}") from None
    wanted = document.get("schedule", {}).get("digest")
    if schedule.digest != wanted:
        raise ArtefactError(f"{folder / WEIGHTS}: {BETA}: digest {schedule.digest}, {DESCRIPTION} wants {wanted}")
    return schedule


def _network(description: Description, schedule: NoiseSchedule, path: Path, tensors: Mapping[str, Tensor]) -> UNet:
    """A network with the weights that were read from `path`."""
    has_linear_path = any(name.startswith("linear.") for name in tensors)
    network = build_network(description, seed=0, num_timesteps=schedule.num_timesteps if has_linear_path else None)
    wanted = network.state_dict()
    if missing := sorted(wanted.keys() - tensors.keys()):
        raise ArtefactError(f"{path}: {len(missing)} weights are missing, the first is {missing[0]}")
    if unknown := sorted(tensors.keys() - wanted.keys()):
        raise ArtefactError(f"{path}: {len(unknown)} weights are not the network's, the first is {unknown[0]}")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise ArtefactError(f"{path}: {name}: shape {list(tensor.shape)}, wanted {list(wanted[name].shape)}")
        if not torch.isfinite(tensor).all():
            raise ArtefactError(f"{path}: {name}: holds values that are not finite")
    network.load_state_dict(dict(tensors))
    return network


def _digest(document: Mapping[str, Any]) -> str:
    identity = {key: value for key, value in document.items() if key != "provenance"}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def plan_for(
    model: Model,
    sampler: Sampler,
    num_steps: int,
    *,
    eta: float = 0.0,
    guidance_scale: float = 1.0,
    guidance_interval: Interval = ALL_STEPS,
) -> SamplerPlan:
    """The plan of a sampler on the model's timetable for this number of steps (see `times_for`); arguments as `make_plan`.

    Raises:
        FoundryError: the number of steps is not in 1 … T, or another argument is invalid.
    """
    times = times_for(model.description.timetables.get(sampler, {}), num_steps, model.schedule)
    return make_plan(
        sampler,
        model.schedule,
        times,
        eta=eta,
        guidance_scale=guidance_scale,
        guidance_interval=guidance_interval,
    )


def default_plan(model: Model) -> SamplerPlan:
    """The plan for requests without sampling settings."""
    return plan_for(model, **asdict(model.description.sampling))
