"""Who is compared: each is a command that trains and a function that draws.

`pipeline.train` is run as anybody runs it, in a folder of its own; the peers are trained by `benchmarks.peer_training`.
"""

from __future__ import annotations

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
from typing import TYPE_CHECKING, cast

import yaml

from benchmarks.protocol import ROOT, Run, in_turn, python, run_command, say, scratch_environment, seconds_of
from pipeline.artefacts.dataset import Dataset, digest_of
from pipeline.params import Params, load_params

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from benchmarks.peers import PeerNetwork
    from pipeline.artefacts.dataset import Split
    from pipeline.artefacts.model import Model, SamplingDefaults
    from pipeline.device import Device
    from pipeline.diffusion.unet import UNet
    from pipeline.evaluation.samples import Samples
    from pipeline.params import EvaluateParams
    from pipeline.training.loop import Training

# ruff: noqa: PLC0415  # torch is loaded by what needs it

WEIGHTS = "weights.safetensors"
FASTER_IN_FLOAT32 = {"diffusers"}
"""Peers whose network CPUs with AMX train faster without bfloat16: 26.8 images/s against 20.3 (ddp 20.3 against 43.9)."""

HUGE_PAGES = ":".join(
    f"glibc.malloc.{name}" for name in ("hugetlb=1", "mmap_threshold=33554432", "trim_threshold=1073741824")
)
"""`huge_pages` of dvc.yaml."""


@dataclass(frozen=True)
class Ground:
    """What all arms work on."""

    data: Path
    """Holds prepared, schedule and features."""
    scratch: Path
    """Where trainings are run."""
    params: Params

    @property
    def environment(self) -> dict[str, str]:
        """Of every training, whoever's: a store of its own, and memory as in dvc.yaml."""
        return scratch_environment(self.scratch) | {"GLIBC_TUNABLES": HUGE_PAGES}

    @cached_property
    def prepared(self) -> Dataset:
        return Dataset.open(self.data / "prepared")

    @cached_property
    def pictures(self) -> Path:
        """The training images as PNG files."""
        from benchmarks.peers import write_pictures

        return _made_once(self.scratch / "pictures", partial(write_pictures, self.prepared.split("train")))

    @cached_property
    def without_labels(self) -> Path:
        """The prepared images once more, of no class."""
        return _made_once(self.scratch / "prepared", self._write_without_labels)

    def _write_without_labels(self, folder: Path) -> None:
        for split in ("train", "held_out"):
            (folder / split).mkdir(parents=True)
            for shard in (self.data / "prepared" / split).glob("images-*.npy"):
                (folder / split / shard.name).symlink_to(shard.absolute())
        info = replace(self.prepared.info, class_names=None, digest=digest_of(folder))
        (folder / "dataset.json").write_text(json.dumps(info.document()), encoding="utf-8")


def _made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder that is there whole or not at all."""
    if not folder.exists():
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        say(f"making {folder}")
        make(unfinished)
        unfinished.rename(folder)
    return folder


@dataclass(frozen=True, eq=False, slots=True)
class Drawn:
    """What an arm has drawn."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    """The classes that were asked for."""
    guidance_scale: float


class Arm(ABC):
    """A network and how it is trained and sampled."""

    name: str
    title: str

    @abstractmethod
    def train(self, ground: Ground, num_images: int, seed: int, out: Path) -> Run:
        """Train in a process of its own; `out` holds what is needed to draw."""

    @abstractmethod
    def draw(self, ground: Ground, out: Path, params: EvaluateParams) -> Drawn:
        """With the guidance that suits it, where it knows classes."""


@dataclass(frozen=True)
class Ours(Arm):
    """`python -m pipeline.train` with params.yaml."""

    name: str = "ours"
    title: str = "ours"
    labelled: bool = True

    def train(self, ground: Ground, num_images: int, seed: int, out: Path) -> Run:
        folder = out.absolute() / "project"
        folder.mkdir(parents=True)
        document = ground.params.model_dump(mode="json", by_alias=True)
        document["train"] |= {"num_images": num_images, "seed": seed}
        (folder / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        options = ("--prepared", str(self._prepared(ground)), "--schedule", str((ground.data / "schedule").absolute()))
        environment = ground.environment | {"DVC_ROOT": str(folder)}
        return run_command(
            python("-m", "pipeline.train", *options, "--out", str(out.absolute() / "model")),
            folder=folder,
            environment=environment,
        )

    def draw(self, ground: Ground, out: Path, params: EvaluateParams) -> Drawn:
        from pipeline.artefacts.model import load_model

        return _drawn(load_model(out / "model"), ground, Dataset.open(self._prepared(ground)), params)

    def _prepared(self, ground: Ground) -> Path:
        return (ground.data / "prepared" if self.labelled else ground.without_labels).absolute()


@dataclass(frozen=True)
class Peer(Arm):
    """A peer's network."""

    name: str
    title: str
    peer: str
    with_our_recipe: bool

    def train(self, ground: Ground, num_images: int, seed: int, out: Path) -> Run:
        out.mkdir(parents=True)
        options = ["--arm", self.name, "--num-images", str(num_images), "--seed", str(seed)]
        options += ["--data", str(ground.data.absolute()), "--out", str(out.absolute())]
        if self.peer == "ddp" and not self.with_our_recipe:
            options += ["--pictures", str(ground.pictures.absolute())]
        command = python("-m", "benchmarks.peer_training", *options)
        return run_command(command, folder=ROOT, environment=ground.environment)

    def draw(self, ground: Ground, out: Path, params: EvaluateParams) -> Drawn:
        from benchmarks.peers import NUM_STEPS, SAMPLERS, draw_peer

        if self.with_our_recipe:
            return _drawn(self.model(ground, out), ground, ground.prepared, params)
        sampler = SAMPLERS[self.peer](self.network(ground, out), NUM_STEPS)
        return Drawn(draw_peer(sampler, params.num_samples, seed=params.seed), None, 1.0)

    def network(self, ground: Ground, out: Path) -> PeerNetwork:
        """The network as it was trained."""
        from benchmarks.peers import peer_network
        from pipeline.artefacts.tensors import load_tensors

        network = peer_network(self.peer, ground.prepared.info.num_classes if self.with_our_recipe else 0)
        network.take(load_tensors(out / WEIGHTS))
        return network.eval()

    def model(self, ground: Ground, out: Path) -> Model:
        """The network in the place of ours."""
        from pipeline.artefacts.model import Model
        from pipeline.artefacts.schedule_table import read_schedule_table
        from pipeline.train import describe

        schedule = ground.data / "schedule"
        table = read_schedule_table(schedule / "table.parquet")
        description = describe(ground.params, ground.prepared, table, schedule)
        return Model(description, cast("UNet", self.network(ground, out)), table.schedule, digest="")


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Ours(),
        Ours("ours-unlabelled", "ours, without classes", labelled=False),
        Peer("diffusers", "diffusers", "diffusers", with_our_recipe=False),
        Peer("diffusers+ours", "diffusers' network, our recipe", "diffusers", with_our_recipe=True),
        Peer("ddp", "denoising-diffusion-pytorch", "ddp", with_our_recipe=False),
        Peer("ddp+ours", "denoising-diffusion-pytorch's network, our recipe", "ddp", with_our_recipe=True),
    )
}


def ground_of(data: Path, scratch: Path) -> Ground:
    """The project's params on the data in a folder."""
    return Ground(data, scratch, load_params(ROOT / "params.yaml"))


def device_for(network: str) -> Device:
    """The machine's best device, in the precision in which this network trains faster there."""
    from pipeline.device import best_device

    device = best_device()
    is_slower = device.device.type == "cpu" and network in FASTER_IN_FLOAT32
    return replace(device, autocast=False) if is_slower else device


def untrained_model(ground: Ground) -> Model:
    """Ours before its first step."""
    from pipeline.artefacts.model import Model, build_network
    from pipeline.artefacts.schedule_table import read_schedule_table
    from pipeline.train import describe

    schedule = ground.data / "schedule"
    table = read_schedule_table(schedule / "table.parquet")
    description = describe(ground.params, ground.prepared, table, schedule)
    return Model(description, build_network(description, seed=0).eval(), table.schedule, digest="untrained")


def training_of(
    ground: Ground,
    network: nn.Module,
    split: Split | None = None,
    batch_size: int | None = None,
    device: Device | None = None,
) -> Training:
    """Our loop around a network, in this process alone."""
    from pipeline.artefacts.schedule_table import read_schedule_table
    from pipeline.device import best_device
    from pipeline.training.loop import Training

    params, table = ground.params.train, read_schedule_table(ground.data / "schedule" / "table.parquet")
    if batch_size:
        params = params.model_copy(update={"batch_size": batch_size})
    images = split or ground.prepared.split("train")
    return Training(params, cast("UNet", network), table, images, device or best_device())


def rates_in_turn(trainings: Mapping[str, Training], rounds: int, num_steps: int) -> dict[str, float]:
    """Images a second of each training, `num_steps` a round; medians."""
    steps = {name: training.steps() for name, training in trainings.items()}

    def ask(name: str) -> Callable[[], float]:
        return lambda: seconds_of(lambda: deque(islice(steps[name], num_steps), maxlen=0))

    seconds = in_turn({name: ask(name) for name in steps}, rounds)
    return {
        name: num_steps * training.params.batch_size / median(seconds[name]) for name, training in trainings.items()
    }


def sampled_as(model: Model, sampling: SamplingDefaults) -> Model:
    """The same model, sampled so by default."""
    return replace(model, description=replace(model.description, sampling=sampling))


def _drawn(model: Model, ground: Ground, prepared: Dataset, params: EvaluateParams) -> Drawn:
    """As the model draws with the guidance that suits it; its average and its times are as they were."""
    from pipeline.evaluation.choose_guidance import choose_guidance
    from pipeline.evaluation.evaluator import load_evaluator
    from pipeline.evaluation.samples import draw_samples
    from pipeline.evaluation.tuning import sampling_of

    judge = load_evaluator(ground.data / "features", prepared, "train")
    sampling, _ = choose_guidance(model, sampling_of(model, params), judge, params)
    samples: Samples = draw_samples(sampled_as(model, sampling), prepared.split("train"), params)
    return Drawn(samples.images, samples.labels, sampling.guidance_scale)
