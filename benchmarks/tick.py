"""The share of a tick that is spent outside the network.

    python -m benchmarks.tick --out benchmarks/results/tick.json

The engine draws with full batches, without HTTP, on one thread; the network's calls are timed from inside. The rest
is scheduling, gathering and scattering rows, noise, the solver step, pixels of finished images, and events.
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
from service.engine.batch_sizes import measure_batch_sizes
from service.engine.engine import Engine
from service.engine.events import End, Event
from service.engine.request import Request, SamplingParams
from service.engine.scheduler import Limits
from service.engine.stats import Stats
from service.engine.stepper import Stepper

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from pipeline.diffusion.denoiser import Denoiser

ROWS, WARM_UP = 8, 3
MOST_OUTSIDE = 0.05
"""The target."""


@dataclass(eq=False)
class Timed:
    """A denoiser that records when each call begins and ends."""

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
    for name, images in _cases(10 if arguments.quick else 50).items():
        _draw(engine, images)
        cases.append({"images": name, **shares(timed.calls[WARM_UP:])})
        timed.calls.clear()
    engine.stop()
    columns = ("images", "network ms", "outside ms", "outside", "target")
    finish(arguments, {"cases": cases, "repro_id": engine.stepper.repro_id}, table(columns, map(_row, cases)))


def _engine(folder: Path, backend_name: str) -> tuple[Engine, Timed]:
    torch.set_num_threads(1)
    model = load_model(folder)
    backend = backend_for(model, folder, backend_name, threads=1)  # type: ignore[arg-type]  # argparse checks it
    sizes, timed = measure_batch_sizes(model, backend.denoiser, ROWS, backend.device), Timed(backend.denoiser)
    stepper = Stepper(model, replace(backend, denoiser=timed), sizes, slots=256)
    engine = Engine(lambda: stepper, Limits(), Stats())
    engine.start()
    while not engine.is_ready:
        time.sleep(0.01)
    return engine, timed


def _cases(num_steps: int) -> dict[str, list[SamplingParams]]:
    """The images that are drawn at once, by the name of the case."""
    plain = [SamplingParams(seed=seed, class_label=None, sampler="dpmpp_2m", num_steps=num_steps) for seed in range(64)]
    return {
        "8, dpmpp_2m": plain[:ROWS],
        "8, ddpm, noise in each step": [replace(params, sampler="ddpm") for params in plain[:ROWS]],
        "64, dpmpp_2m, of which 8 at a time": plain,
    }


def _draw(engine: Engine, images: list[SamplingParams]) -> None:
    """Draw all images, each as a separate request."""
    ended = threading.Semaphore(0)

    def listen(event: Event) -> None:
        if isinstance(event, End):
            ended.release()

    for number, params in enumerate(images):
        engine.submit(Request(request_id=f"{number}", owner="tick", images=(params,)), listen)
    for _ in images:
        ended.acquire()


def shares(calls: Sequence[tuple[float, float]]) -> dict[str, float]:
    """The 10th percentiles of a call and of the gap after it; means and medians would include other programs' work."""
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
