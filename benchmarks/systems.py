"""The arms of the comparison with other packages: a command that trains and a function that draws, for each.

Our arms run `pipeline.train` in a folder of their own, as a user would; `benchmarks.peer_training` trains the peers.
"""

import json
import shutil
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
import yaml
from numpy.typing import NDArray
from torch import nn

from benchmarks.peer_recipes import write_png_images
from benchmarks.peers import NUM_STEPS, SAMPLERS, PeerNetwork, draw_with_peer, peer_network
from benchmarks.protocol import (
    ROOT,
    Run,
    in_turn,
    log_progress,
    python,
    run_command,
    scratch_environment,
    time_call,
)
from pipeline.artefacts.dataset import Dataset, Split, digest_of
from pipeline.artefacts.model import Description, Model, build_network, load_model
from pipeline.artefacts.sampling_defaults import SamplingDefaults
from pipeline.artefacts.schedule_table import ScheduleTable, read_schedule_table
from pipeline.artefacts.tensors import load_tensors
from pipeline.device import Device, best_device
from pipeline.diffusion.unet import UNet
from pipeline.evaluation.evaluator import load_evaluator
from pipeline.evaluation.samples import draw_samples
from pipeline.evaluation.tuning.guidance import choose_guidance
from pipeline.evaluation.tuning.tune import default_sampling
from pipeline.params import EvaluateParams, Params, load_params
from pipeline.train import describe
from pipeline.training.loop import Training

WEIGHTS = "weights.safetensors"
FASTER_IN_FLOAT32 = {"diffusers"}
"""Peers whose network CPUs with AMX train faster in float32 than in bfloat16 (`python -m benchmarks.precision`)."""


def allocator_settings() -> str:
    """Return the value of GLIBC_TUNABLES with which dvc.yaml runs `train`."""
    variables = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["vars"]
    (setting,) = (variable["huge_pages"] for variable in variables if "huge_pages" in variable)
    return str(setting).removeprefix("GLIBC_TUNABLES=")


@dataclass(frozen=True)
class Workspace:
    """The data, parameters and scratch folder that all arms share."""

    data: Path
    """Folder with prepared, schedule and features."""
    scratch: Path
    """Folder in which trainings run."""
    params: Params

    @property
    def environment(self) -> dict[str, str]:
        """Environment of every training, ours and the peers': an MLflow store in scratch, memory as in dvc.yaml."""
        return scratch_environment(self.scratch) | {"GLIBC_TUNABLES": allocator_settings()}

    @cached_property
    def dataset(self) -> Dataset:
        return Dataset.open(self.data / "prepared")

    @cached_property
    def png_folder(self) -> Path:
        """Folder with the training images as PNG files."""
        return _make_once(self.scratch / "pictures", partial(write_png_images, self.dataset.split("train")))

    @cached_property
    def unlabelled_dataset(self) -> Path:
        """Folder with the same prepared images, but without classes."""
        return _make_once(self.scratch / "prepared", self._write_unlabelled)

    def _write_unlabelled(self, folder: Path) -> None:
        for split in ("train", "held_out"):
            (folder / split).mkdir(parents=True)
            for shard in (self.data / "prepared" / split).glob("images-*.npy"):
                (folder / split / shard.name).symlink_to(shard.absolute())
        info = replace(self.dataset.info, class_names=None, digest=digest_of(folder))
        (folder / "dataset.json").write_text(json.dumps(info.document()), encoding="utf-8")


def _make_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return a folder that `make` has written completely, in this run or in an earlier one."""
    if not folder.exists():
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        log_progress(f"making {folder}")
        make(unfinished)
        unfinished.rename(folder)
    return folder


@dataclass(frozen=True, eq=False, slots=True)
class ArmSamples:
    """Images that an arm has drawn."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    """Requested classes; None for an unconditional network."""
    guidance_scale: float


class TrainedArm(ABC):
    """A network with the command that trains it and the way it is sampled."""

    name: str
    title: str

    @abstractmethod
    def train(self, workspace: Workspace, num_images: int, seed: int, out: Path) -> Run:
        """Train in a process of its own; `out` receives everything that `draw` needs."""

    @abstractmethod
    def draw(self, workspace: Workspace, out: Path, params: EvaluateParams) -> ArmSamples:
        """Draw `params.num_samples` images; a network with classes chooses its guidance scale first."""


@dataclass(frozen=True)
class OurArm(TrainedArm):
    """`python -m pipeline.train` with params.yaml."""

    name: str = "ours"
    title: str = "ours"
    labelled: bool = True

    def train(self, workspace: Workspace, num_images: int, seed: int, out: Path) -> Run:
        folder = out.absolute() / "project"
        folder.mkdir(parents=True)
        document = self.params(workspace)
        document["train"] |= {"num_images": num_images, "seed": seed}
        (folder / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        schedule = (workspace.data / "schedule").absolute()
        options = ("--prepared", str(self._dataset_folder(workspace)), "--schedule", str(schedule))
        return run_command(
            python("-m", "pipeline.train", *options, "--out", str(out.absolute() / "model")),
            folder=folder,
            environment=self.environment(workspace) | {"DVC_ROOT": str(folder)},
        )

    def params(self, workspace: Workspace) -> dict[str, Any]:
        """Return the document of params.yaml."""
        return workspace.params.model_dump(mode="json", by_alias=True)

    def environment(self, workspace: Workspace) -> dict[str, str]:
        """Return what finds the code that trains."""
        return workspace.environment

    def draw(self, workspace: Workspace, out: Path, params: EvaluateParams) -> ArmSamples:
        dataset = Dataset.open(self._dataset_folder(workspace))
        return _draw_guided(load_model(out / "model"), workspace, dataset, params)

    def _dataset_folder(self, workspace: Workspace) -> Path:
        return (workspace.data / "prepared" if self.labelled else workspace.unlabelled_dataset).absolute()


@dataclass(frozen=True)
class PeerArm(TrainedArm):
    """The network of another package, trained by that package's example or by our training loop."""

    name: str
    title: str
    peer: str
    with_our_recipe: bool

    def train(self, workspace: Workspace, num_images: int, seed: int, out: Path) -> Run:
        out.mkdir(parents=True)
        options = ["--arm", self.name, "--num-images", str(num_images), "--seed", str(seed)]
        options += ["--data", str(workspace.data.absolute()), "--out", str(out.absolute())]
        if self.peer == "ddp" and not self.with_our_recipe:
            options += ["--pictures", str(workspace.png_folder.absolute())]
        command = python("-m", "benchmarks.peer_training", *options)
        return run_command(command, folder=ROOT, environment=workspace.environment)

    def draw(self, workspace: Workspace, out: Path, params: EvaluateParams) -> ArmSamples:
        if self.with_our_recipe:
            return _draw_guided(self.model(workspace, out), workspace, workspace.dataset, params)
        sampler = SAMPLERS[self.peer](self.network(workspace, out), NUM_STEPS)
        return ArmSamples(draw_with_peer(sampler, params.num_samples, seed=params.seed), None, 1.0)

    def network(self, workspace: Workspace, out: Path) -> PeerNetwork:
        """Return the trained network."""
        info = workspace.dataset.info
        network = peer_network(self.peer, info.num_classes if self.with_our_recipe else 0, info.image_shape)
        network.load_weights(load_tensors(out / WEIGHTS))
        return network.eval()

    def model(self, workspace: Workspace, out: Path) -> Model:
        """Return a model of ours whose network is the peer's."""
        description, table = _describe(workspace)
        return Model(description, cast("UNet", self.network(workspace, out)), table.schedule, digest="")


ARMS: dict[str, TrainedArm] = {
    arm.name: arm
    for arm in (
        OurArm(),
        OurArm("ours-unlabelled", "ours, without classes", labelled=False),
        PeerArm("diffusers", "diffusers", "diffusers", with_our_recipe=False),
        PeerArm("diffusers+ours", "diffusers' network, our recipe", "diffusers", with_our_recipe=True),
        PeerArm("ddp", "denoising-diffusion-pytorch", "ddp", with_our_recipe=False),
        PeerArm("ddp+ours", "denoising-diffusion-pytorch's network, our recipe", "ddp", with_our_recipe=True),
    )
}


def read_workspace(data: Path, scratch: Path) -> Workspace:
    """Return a workspace with the project's params.yaml."""
    return Workspace(data, scratch, load_params(ROOT / "params.yaml"))


def device_for(network: str) -> Device:
    """Return the machine's best device, in the precision in which it trains this network faster."""
    device = best_device()
    is_slower = device.device.type == "cpu" and network in FASTER_IN_FLOAT32
    return replace(device, autocast=False) if is_slower else device


def untrained_model(workspace: Workspace) -> Model:
    """Return our model before its first training step."""
    description, table = _describe(workspace)
    return Model(description, build_network(description, seed=0).eval(), table.schedule, digest="untrained")


def make_training(
    workspace: Workspace,
    network: nn.Module,
    split: Split | None = None,
    batch_size: int | None = None,
    device: Device | None = None,
) -> Training:
    """Return our training loop around a network, in this process alone."""
    params, table = workspace.params.train, read_schedule_table(workspace.data / "schedule" / "table.parquet")
    if batch_size:
        params = params.model_copy(update={"batch_size": batch_size})
    images = split or workspace.dataset.split("train")
    return Training(params, cast("UNet", network), table, images, device or best_device())


def images_per_sec_in_turn(trainings: Mapping[str, Training], rounds: int, num_steps: int) -> dict[str, float]:
    """Return the median images/s of each training; every round runs `num_steps` of each."""
    steps = {name: training.steps() for name, training in trainings.items()}

    def time_steps(name: str) -> Callable[[], float]:
        return lambda: time_call(lambda: deque(islice(steps[name], num_steps), maxlen=0))

    seconds = in_turn({name: time_steps(name) for name in steps}, rounds)
    return {
        name: num_steps * training.params.batch_size / median(seconds[name]) for name, training in trainings.items()
    }


def with_sampling(model: Model, sampling: SamplingDefaults) -> Model:
    """Return the model with other sampling defaults."""
    return replace(model, description=replace(model.description, sampling=sampling))


def _describe(workspace: Workspace) -> tuple[Description, ScheduleTable]:
    schedule = workspace.data / "schedule"
    table = read_schedule_table(schedule / "table.parquet")
    return describe(workspace.params, workspace.dataset, table, schedule), table


def _draw_guided(model: Model, workspace: Workspace, dataset: Dataset, params: EvaluateParams) -> ArmSamples:
    """Draw with the guidance scale that `evaluate` would choose; EMA length and times stay those of the model."""
    evaluator = load_evaluator(workspace.data / "features", dataset, "train")
    unguided = default_sampling(params, model.schedule.num_timesteps)
    sampling, _ = choose_guidance(model, unguided, evaluator, params, real_agreement=None)
    samples = draw_samples(with_sampling(model, sampling), dataset.split("train"), params)
    return ArmSamples(samples.images, samples.labels, sampling.guidance_scale)
