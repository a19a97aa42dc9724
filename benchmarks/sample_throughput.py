"""How many images a second are drawn at equal quality, by batch, in eager mode and by ONNX Runtime.

    python -m benchmarks.time_to_quality --scratch /scratch …
    python -m benchmarks.sample_throughput --models /scratch --minutes 6 --out benchmarks/results/sample_throughput.json

Each network is asked for as few steps as do: the fewest whose KID is within the error of its own with 50 steps of
DDIM. Ours takes the sampler of params.yaml, the peers their own pipelines; by ONNX Runtime all are drawn by our loop.
A peer that was not trained is timed with 50 steps only: its speed does not depend on its weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import torch

from benchmarks.peers import NETWORKS, SAMPLERS, PeerNetwork, ddp_diffusion, draw_peer, peer_network
from benchmarks.protocol import finish, in_turn, parser, say, seconds_of, table
from benchmarks.systems import ARMS, Ground, Peer, ground_of, sampled_as, untrained_model
from benchmarks.time_to_quality import Task
from pipeline import cli
from pipeline.artefacts.model import DataSpec, Description, Model, SamplingDefaults, load_model, plan_for
from pipeline.diffusion.betas import linear_betas
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.sampling import sample
from pipeline.diffusion.unet import UNetConfig
from pipeline.errors import FoundryError
from pipeline.evaluation.evaluator import Evaluator, load_evaluator
from pipeline.evaluation.samples import draw_samples
from pipeline.export.portable import ExportError, write_onnx
from pipeline.training.distributed import num_cores
from service.engine.onnx import OnnxDenoiser

if TYPE_CHECKING:
    from pipeline.diffusion.denoiser import Denoiser
    from pipeline.diffusion.sampling import Sampler
    from pipeline.diffusion.target import Target
    from pipeline.diffusion.unet import UNet
    from pipeline.params import EvaluateParams

BATCH_SIZES = (1, 8, 32, 64)
STEPS = (4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50)
WANTED_STEPS = 50
"""Of DDIM, whose quality is to be had with fewer."""


@dataclass(frozen=True, slots=True)
class Quality:
    """KID of some images."""

    kid: float
    standard_error: float

    def is_as_good_as(self, wanted: Quality) -> bool:
        """Within the error of the wanted one."""
        return self.kid <= wanted.kid + wanted.standard_error


@dataclass(frozen=True, slots=True)
class Wish:
    """How ours is sampled; the peers have but one sampler."""

    sampler: Sampler
    steps: int
    has_own_times: bool = True
    """False: equally spaced ones."""

    def told(self, model: Model) -> Model:
        """The model with the times that are wished for."""
        return model if self.has_own_times else replace(model, description=replace(model.description, timetables={}))


@dataclass(frozen=True, slots=True)
class Way:
    """One way to draw: a network, its steps, and what runs it."""

    name: str
    steps: int
    backend: str
    draw: Callable[[int], object]
    """From a number of images, in one batch."""


@dataclass(frozen=True)
class Contender:
    """A trained network."""

    name: str
    model: Model
    sampler: Sampler
    peer: PeerNetwork | None = None
    is_trained: bool = True

    def quality(self, wish: Wish, ground: Ground, judge: Evaluator, params: EvaluateParams) -> Quality:
        """Of images drawn as the contender draws them."""
        if self.peer is not None:
            images = draw_peer(SAMPLERS[self.name](self.peer, wish.steps), params.num_samples, seed=params.seed)
            figures = judge.figures(images, None)
        else:
            sampling = SamplingDefaults(sampler=wish.sampler, num_steps=wish.steps, guidance_scale=1.0)
            own = sampled_as(wish.told(self.model), sampling)
            samples = draw_samples(own, ground.prepared.split("train"), params)
            figures = judge.figures(samples.images, samples.labels)
        return Quality(figures["kid"], figures["kid_standard_error"])

    def eager(self, wish: Wish) -> Way:
        if self.peer is not None:
            return Way(self.name, wish.steps, "its own pipeline", SAMPLERS[self.name](self.peer, wish.steps))
        return Way(self.name, wish.steps, "eager", _drawn(wish.told(self.model), self.model.denoiser(), wish))

    def exported(self, steps: int, folder: Path) -> Way | None:
        """None where ONNX cannot express the network."""
        path = folder / f"{self.name}.onnx"
        try:
            write_onnx(self.model, path)
        except ExportError as error:
            say(f"{self.name}: {str(error).splitlines()[0]}")
            return None
        denoiser = OnnxDenoiser(path, self.model, threads=num_cores())
        return Way(self.name, steps, "ONNX Runtime", _drawn(self.model, denoiser, Wish(self.sampler, steps)))


def main() -> None:
    arguments = _parser().parse_args()
    ground = ground_of(arguments.data, arguments.models or arguments.data)
    contenders = _untrained(ground) if arguments.quick else _trained(ground, arguments)
    with TemporaryDirectory(prefix="foundry-") as folder:
        num_samples = 100 if arguments.quick else arguments.num_samples
        document = measure(contenders, ground, Path(folder), num_samples=num_samples, quick=arguments.quick)
    finish(arguments, document, report(document))


def _parser() -> argparse.ArgumentParser:
    made = parser("sample_throughput", __doc__)
    made.add_argument("--models", type=Path, metavar="FOLDER", help="--scratch of time_to_quality")
    made.add_argument("--minutes", type=float, default=6.0, help="of the trainings (default: %(default)g)")
    made.add_argument("--seed", type=int, default=0, help="of the trainings")
    made.add_argument("--num-samples", type=int, default=2000, help="default: %(default)s")
    made.add_argument("--data", type=Path, default=Path("data"), help="holds prepared, schedule, features")
    return made


def measure(
    contenders: Sequence[Contender], ground: Ground, folder: Path, *, num_samples: int, quick: bool
) -> dict[str, Any]:
    """Steps of equal quality, then the speed of all ways in turn."""
    judge = load_evaluator(ground.data / "features", ground.prepared)
    params = ground.params.evaluate.model_copy(update={"num_samples": num_samples})
    ways, qualities = [], {}
    for contender in contenders:
        numbers = STEPS[:2] if quick else STEPS
        ddim = Wish("ddim", numbers[-1] if quick else WANTED_STEPS, has_own_times=False)
        ways.append(contender.eager(ddim))
        if not contender.is_trained:
            continue
        wanted = contender.quality(ddim, ground, judge, params)
        steps, quality = _fewest_steps(contender, wanted, numbers, ground, judge, params)
        say(f"{contender.name}: {steps} steps, KID {quality.kid:.3g}; with {ddim.steps} of DDIM {wanted.kid:.3g}")
        qualities[contender.name] = {
            "steps": steps,
            "kid": quality.kid,
            "ddim_kid": wanted.kid,
            "ddim_kid_standard_error": wanted.standard_error,
        }
        ways.append(contender.eager(Wish(contender.sampler, steps)))
        ways += filter(None, [contender.exported(steps, folder)])
    batch_sizes = BATCH_SIZES[:2] if quick else BATCH_SIZES
    return {"qualities": qualities, "speeds": _speeds(ways, batch_sizes, rounds=1 if quick else 3)}


def _fewest_steps(
    contender: Contender,
    wanted: Quality,
    numbers: Sequence[int],
    ground: Ground,
    judge: Evaluator,
    params: EvaluateParams,
) -> tuple[int, Quality]:
    known: dict[int, Quality] = {}

    def is_enough(steps: int) -> bool:
        known[steps] = contender.quality(Wish(contender.sampler, steps), ground, judge, params)
        return known[steps].is_as_good_as(wanted)

    steps = fewest(numbers, is_enough)
    return steps, known.get(steps, wanted)


def fewest(numbers: Sequence[int], is_enough: Callable[[int], bool]) -> int:
    """The least of rising numbers that is enough, where more are enough too; the last is taken to be."""
    low, high = 0, len(numbers) - 1
    while low < high:
        middle = (low + high) // 2
        if is_enough(numbers[middle]):
            high = middle
        else:
            low = middle + 1
    return numbers[low]


def _speeds(ways: Sequence[Way], batch_sizes: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Images a second, medians."""
    found = []
    for batch_size in batch_sizes:
        say(f"batches of {batch_size}")
        arms = {str(number): _asked(way, batch_size) for number, way in enumerate(ways)}
        for number, seconds in in_turn(arms, rounds).items():
            way = ways[int(number)]
            facts = {"name": way.name, "steps": way.steps, "backend": way.backend, "batch_size": batch_size}
            found.append({**facts, "images_per_sec": batch_size / median(seconds)})
    return found


def _asked(way: Way, batch_size: int) -> Callable[[], float]:
    return lambda: seconds_of(lambda: way.draw(batch_size))


def _drawn(model: Model, denoiser: Denoiser, wish: Wish) -> Callable[[int], object]:
    """Our loop."""
    plan = plan_for(model, wish.sampler, wish.steps)

    def draw(count: int) -> object:
        labels = None if model.null_label is None else torch.arange(count) % model.null_label
        return sample(denoiser, plan, range(count), labels, model.description.data.shape)

    return draw


def _trained(ground: Ground, arguments: argparse.Namespace) -> list[Contender]:
    """What time_to_quality has kept.

    Raises:
        FoundryError: --models names no folder with ours.

    """
    if arguments.models is None:
        raise FoundryError("--models: should name the --scratch of a run of benchmarks.time_to_quality")
    folders = {name: arguments.models / Task(name, arguments.minutes, arguments.seed).folder for name in ARMS}
    sampler = ground.params.evaluate.sampler
    found = [Contender("ours", load_model(folders["ours"] / "model"), sampler)]
    for peer in NETWORKS:
        if folders[peer].exists():
            network = cast("Peer", ARMS[peer]).network(ground, folders[peer])
            found.append(Contender(peer, peer_model(peer, network), "ddim", network))
        else:
            say(f"{peer}: timed only, {folders[peer]} is not there")
            found += _new_peer(peer, is_trained=False)
    return found


def _untrained(ground: Ground) -> list[Contender]:
    """New networks, to try the benchmark."""
    found = [Contender("ours", untrained_model(ground), ground.params.evaluate.sampler)]
    return found + [contender for peer in NETWORKS for contender in _new_peer(peer)]


def _new_peer(peer: str, *, is_trained: bool = True) -> list[Contender]:
    """Of new weights, where it is installed."""
    try:
        network = peer_network(peer, 0).eval()
    except FoundryError as error:
        say(f"left out: {error}")
        return []
    return [Contender(peer, peer_model(peer, network), "ddim", network, is_trained=is_trained)]


def peer_model(peer: str, network: PeerNetwork) -> Model:
    """A peer's network and process in the form of ours, for our loop."""
    data = DataSpec(image_size=28, channels=1, class_names=None, sigma_data=0.5)
    sampling = SamplingDefaults(sampler="ddim", num_steps=WANTED_STEPS, guidance_scale=1.0)
    targets: dict[str, Target] = {"diffusers": "eps", "ddp": "v"}
    betas = linear_betas(1000) if peer == "diffusers" else ddp_diffusion(network).betas.double()
    # What our network would be made of is nobody's business here.
    description = Description(data=data, network=UNetConfig(), target=targets[peer], sampling=sampling)
    return Model(description, cast("UNet", network), NoiseSchedule(betas), digest=peer)


def report(document: Mapping[str, Any]) -> str:
    """The tables of the docs."""
    qualities = [
        [name, *(found[key] for key in ("ddim_kid", "ddim_kid_standard_error", "steps", "kid"))]
        for name, found in document["qualities"].items()
    ]
    speeds = document["speeds"]
    sizes = list(dict.fromkeys(speed["batch_size"] for speed in speeds))
    by_way: dict[tuple[Any, ...], dict[int, float]] = {}
    for speed in speeds:
        way = (speed["name"], speed["backend"], speed["steps"])
        by_way.setdefault(way, {})[speed["batch_size"]] = speed["images_per_sec"]
    base = next((rates for way, rates in by_way.items() if way[0] == "diffusers"), None)
    rows = [
        [*way, *(_rate(rates[size], base[size] if base else None) for size in sizes)] for way, rates in by_way.items()
    ]
    return "\n".join(
        [
            table(["network", "KID, DDIM", "its error", "steps of equal quality", "their KID"], qualities),
            table(["network", "by", "steps", *(f"images/s, batch {size}" for size in sizes)], rows),
        ]
    )


def _rate(rate: float, base: float | None) -> str:
    """And how many times that of the diffusers' pipeline with all its steps."""
    return f"{rate:.3g} (x{rate / base:.1f})" if base else f"{rate:.3g}"


if __name__ == "__main__":
    cli.run(main)
