"""What of a tick is not the network.

    python -m benchmarks.tick --out benchmarks/results/tick.json

The engine draws with all rows full, without HTTP, on one thread; the network's calls are timed from inside. Outside
of them are choosing, gathering and scattering rows, noise, the sampler's step, pixels of what is done, and telling.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.protocol import finish, parser, table
from benchmarks.serving import served
from pipeline.artefacts.model import load_model
from service.engine.backend import backend_for
from service.engine.batch_sizes import try_batches
from service.engine.engine import Engine
from service.engine.job import SamplingParams
from service.engine.request import End, Order
from service.engine.scheduler import Limits
from service.engine.stats import Stats
from service.engine.stepper import Stepper

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from pipeline.diffusion.denoiser import Denoiser
    from service.engine.request import Event

ROWS, WARM_UP = 8, 3
MOST_OUTSIDE = 0.05
"""The target."""


@dataclass(eq=False)
class Timed:
    """A denoiser that notes when it is called and when it answers."""

    denoiser: Denoiser
    calls: list[tuple[float, float]] = field(default_factory=list)

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        began = time.perf_counter()
        denoised = self.denoiser(x, t, labels)
        self.calls.append((began, time.perf_counter()))
        return denoised


def main() -> None:
    made = parser("tick", __doc__)
    made.add_argument("--model", metavar="FOLDER_OR_URI", default="data/model", help="default data/model")
    made.add_argument("--backend", choices=["auto", "torch", "onnxruntime"], default="auto")
    arguments = made.parse_args()
    engine, timed = _engine(served(arguments.model), arguments.backend)
    cases = []
    for name, recipes in _cases(10 if arguments.quick else 50).items():
        _draw(engine, recipes)
        cases.append({"images": name, **shares(timed.calls[WARM_UP:])})
        timed.calls.clear()
    engine.stop()
    columns = ("images", "network ms", "outside ms", "outside", "target")
    finish(arguments, {"cases": cases, "repro_id": engine.stepper.repro_id}, table(columns, map(_row, cases)))


def _engine(folder: Path, wanted: str) -> tuple[Engine, Timed]:
    torch.set_num_threads(1)
    model = load_model(folder)
    backend = backend_for(model, folder, wanted, threads=1)  # type: ignore[arg-type]  # argparse knows the choices
    batches, timed = try_batches(model, backend.denoiser, ROWS, backend.device), Timed(backend.denoiser)
    stepper = Stepper(model, replace(backend, denoiser=timed), batches, slots=256)
    engine = Engine(lambda: stepper, Limits(), Stats())
    engine.start()
    while not engine.is_ready:
        time.sleep(0.01)
    return engine, timed


def _cases(num_steps: int) -> dict[str, list[SamplingParams]]:
    """Names and the images that are drawn at once."""
    plain = [SamplingParams(seed=seed, class_label=None, sampler="dpmpp_2m", num_steps=num_steps) for seed in range(64)]
    return {
        "8, dpmpp_2m": plain[:ROWS],
        "8, ddpm, noise in each step": [replace(recipe, sampler="ddpm") for recipe in plain[:ROWS]],
        "64, dpmpp_2m, of which 8 at a time": plain,
    }


def _draw(engine: Engine, recipes: list[SamplingParams]) -> None:
    """All images, each as a request of its own."""
    ended = threading.Semaphore(0)

    def listen(event: Event) -> None:
        if isinstance(event, End):
            ended.release()

    for number, recipe in enumerate(recipes):
        engine.submit(Order(request_id=f"{number}", owner="tick", recipes=(recipe,)), listen)
    for _ in recipes:
        ended.acquire()


def shares(calls: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Times of a call and of the gap after it that nine of ten exceed: means and medians tell of other programs too."""
    network = _low(end - begin for begin, end in calls)
    outside = _low(after - end for (_, end), (after, _) in pairwise(calls))
    return {"network_sec": network, "outside_sec": outside, "outside_share": outside / (network + outside)}


def _low(seconds: Iterable[float]) -> float:
    ordered = sorted(seconds)
    return ordered[len(ordered) // 10]


def _row(case: dict[str, Any]) -> list[str]:
    share = case["outside_share"]
    times = [f"{1e3 * case[name]:.2f}" for name in ("network_sec", "outside_sec")]
    verdict = f"< {MOST_OUTSIDE:.0%}: {'met' if share < MOST_OUTSIDE else 'missed'}"
    return [case["images"], *times, f"{share:.1%}", verdict]


if __name__ == "__main__":
    main()
