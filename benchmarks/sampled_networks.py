"""The networks that `sample_throughput` compares: how each draws in eager mode, by ONNX Runtime, and how well."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from benchmarks.peers import NETWORKS, SAMPLERS, PeerNetwork, ddp_diffusion, draw_with_peer, peer_network
from benchmarks.protocol import log_progress
from benchmarks.systems import ARMS, PeerArm, Workspace, untrained_model, with_sampling
from benchmarks.time_to_quality import Task
from pipeline.artefacts.image_size import image_size
from pipeline.artefacts.model import DataSpec, Description, Model, load_model, plan_for
from pipeline.artefacts.sampling_defaults import SamplingDefaults
from pipeline.cpus import num_cores
from pipeline.diffusion.betas import linear_betas
from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.samplers import Sampler
from pipeline.diffusion.sampling import sample
from pipeline.diffusion.target import Target
from pipeline.diffusion.unet import UNet, UNetConfig
from pipeline.errors import FoundryError
from pipeline.evaluation.evaluator import Evaluator
from pipeline.evaluation.samples import draw_samples
from pipeline.export.denoiser import ExportError
from pipeline.export.onnx import write_onnx
from pipeline.params import EvaluateParams
from service.engine.onnx import OnnxDenoiser

DDIM_STEPS = 50
"""Steps of DDIM whose quality the other samplers should reach with fewer."""


@dataclass(frozen=True, slots=True)
class Quality:
    """KID of a set of images."""

    kid: float
    standard_error: float

    def is_as_good_as(self, wanted: "Quality") -> bool:
        """Whether the KID is at most the wanted one plus its error."""
        return self.kid <= wanted.kid + wanted.standard_error


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampler and steps of our network; each peer has one sampler only."""

    sampler: Sampler
    num_steps: int
    has_own_times: bool = True
    """False: equally spaced times instead of the model's own."""

    def apply(self, model: Model) -> Model:
        """Return the model with these times."""
        return model if self.has_own_times else replace(model, description=replace(model.description, timetables={}))


@dataclass(frozen=True, slots=True)
class DrawMethod:
    """One way to draw: a network, its number of steps and its backend."""

    name: str
    num_steps: int
    backend: str
    draw: Callable[[int], object]
    """Draws a number of images in one batch."""


@dataclass(frozen=True)
class ComparedNetwork:
    """Our network or a peer's."""

    name: str
    model: Model
    sampler: Sampler
    peer: PeerNetwork | None = None
    is_trained: bool = True
    """False: only its speed is measured, which does not depend on the weights."""

    def quality(
        self, sampling: Sampling, workspace: Workspace, evaluator: Evaluator, params: EvaluateParams
    ) -> Quality:
        """Return the quality of `params.num_samples` images."""
        if self.peer is not None:
            sampler = SAMPLERS[self.name](self.peer, sampling.num_steps)
            metrics = evaluator.figures(draw_with_peer(sampler, params.num_samples, seed=params.seed), None)
        else:
            defaults = SamplingDefaults(sampler=sampling.sampler, num_steps=sampling.num_steps, guidance_scale=1.0)
            model = with_sampling(sampling.apply(self.model), defaults)
            samples = draw_samples(model, workspace.dataset.split("train"), params)
            metrics = evaluator.figures(samples.images, samples.labels)
        return Quality(metrics["kid"], metrics["kid_standard_error"])

    def eager(self, sampling: Sampling) -> DrawMethod:
        """Return the method in eager torch; a peer draws by its own pipeline."""
        steps = sampling.num_steps
        if self.peer is not None:
            return DrawMethod(self.name, steps, "its own pipeline", SAMPLERS[self.name](self.peer, steps))
        return DrawMethod(
            self.name, steps, "eager", _our_loop(sampling.apply(self.model), self.model.denoiser(), sampling)
        )

    def exported(self, num_steps: int, folder: Path) -> DrawMethod | None:
        """Return the method by ONNX Runtime; None if ONNX cannot express the network."""
        path = folder / f"{self.name}.onnx"
        try:
            write_onnx(self.model, path)
        except ExportError as error:
            log_progress(f"{self.name}: {str(error).splitlines()[0]}")
            return None
        denoiser = OnnxDenoiser(path, self.model, threads=num_cores())
        draw = _our_loop(self.model, denoiser, Sampling(self.sampler, num_steps))
        return DrawMethod(self.name, num_steps, "ONNX Runtime", draw)


def _our_loop(model: Model, denoiser: Denoiser, sampling: Sampling) -> Callable[[int], object]:
    plan = plan_for(model, sampling.sampler, sampling.num_steps)

    def draw(count: int) -> object:
        labels = None if model.null_label is None else torch.arange(count) % model.null_label
        return sample(denoiser, plan, range(count), labels, model.description.data.shape)

    return draw


def trained_networks(workspace: Workspace, models: Path, minutes: float, seed: int) -> list[ComparedNetwork]:
    """Return the networks that `time_to_quality` has kept in a folder; peers without a training are untrained.

    Raises:
        ArtefactError: the folder has no training of ours.
    """
    folders = {name: models / Task(name, minutes, seed).folder for name in ARMS}
    networks = [ComparedNetwork("ours", load_model(folders["ours"] / "model"), workspace.params.evaluate.sampler)]
    for peer in NETWORKS:
        if folders[peer].exists():
            network = cast("PeerArm", ARMS[peer]).network(workspace, folders[peer])
            networks.append(ComparedNetwork(peer, peer_model(peer, network), "ddim", network))
        else:
            log_progress(f"{peer}: measuring speed only, {folders[peer]} does not exist")
            networks += _new_peer(peer, is_trained=False)
    return networks


def untrained_networks(workspace: Workspace) -> list[ComparedNetwork]:
    """Return new networks, for --quick."""
    ours = ComparedNetwork("ours", untrained_model(workspace), workspace.params.evaluate.sampler)
    return [ours, *(network for peer in NETWORKS for network in _new_peer(peer))]


def _new_peer(peer: str, *, is_trained: bool = True) -> list[ComparedNetwork]:
    """Return an untrained peer, or nothing if its package is not installed."""
    try:
        network = peer_network(peer, 0).eval()
    except FoundryError as error:
        log_progress(f"skipped: {error}")
        return []
    return [ComparedNetwork(peer, peer_model(peer, network), "ddim", network, is_trained=is_trained)]


def peer_model(peer: str, network: PeerNetwork) -> Model:
    """Return a model of ours with a peer's network and diffusion process, for our sampling loop."""
    *size, channels = network.image_shape
    data = DataSpec(image_size=image_size(size), channels=channels, class_names=None, sigma_data=0.5)
    sampling = SamplingDefaults(sampler="ddim", num_steps=DDIM_STEPS, guidance_scale=1.0)
    targets: dict[str, Target] = {"diffusers": "eps", "ddp": "v"}
    betas = linear_betas(1000) if peer == "diffusers" else ddp_diffusion(network).betas.double()
    unused = UNetConfig(patch_size=1, widths=(8,), num_blocks=1, attention=False, dropout=0.0)
    description = Description(data=data, network=unused, target=targets[peer], sampling=sampling)
    return Model(description, cast("UNet", network), NoiseSchedule(betas), digest=peer)
