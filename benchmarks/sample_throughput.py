"""Measure drawn images/s at equal quality, by batch size, in eager mode and by ONNX Runtime.

    python -m benchmarks.time_to_quality --scratch /scratch …
    python -m benchmarks.sample_throughput --models /scratch --minutes 6 --out benchmarks/results/sample_throughput.json

Each network is sampled with the fewest steps whose KID is within the error of its own KID with 50 steps of DDIM. Ours uses
the sampler of params.yaml, the peers their own pipelines; by ONNX Runtime our loop draws them all. An untrained peer is
measured with 50 steps only, since its speed does not depend on its weights.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.protocol import finish, in_turn, log_progress, parser, table, time_call
from benchmarks.sampled_networks import (
    DDIM_STEPS,
    ComparedNetwork,
    DrawMethod,
    Quality,
    Sampling,
    trained_networks,
    untrained_networks,
)
from benchmarks.systems import Workspace, read_workspace
from pipeline import cli
from pipeline.errors import FoundryError
from pipeline.evaluation.evaluator import Evaluator, load_evaluator
from pipeline.params import EvaluateParams

BATCH_SIZES = (1, 8, 32, 64)
STEPS = (4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50)


def main() -> None:
    arguments = _parser().parse_args()
    workspace = read_workspace(arguments.data, arguments.models or arguments.data)
    networks = _networks(workspace, arguments)
    with TemporaryDirectory(prefix="foundry-") as folder:
        num_samples = 100 if arguments.quick else arguments.num_samples
        document = measure(networks, workspace, Path(folder), num_samples=num_samples, quick=arguments.quick)
    finish(arguments, document, report(document))


def _parser() -> argparse.ArgumentParser:
    made = parser("sample_throughput", __doc__)
    made.add_argument("--models", type=Path, metavar="FOLDER", help="--scratch of time_to_quality")
    made.add_argument("--minutes", type=float, default=6.0, help="length of its trainings (default: %(default)g)")
    made.add_argument("--seed", type=int, default=0, help="seed of its trainings")
    made.add_argument("--num-samples", type=int, default=2000, help="default: %(default)s")
    made.add_argument("--data", type=Path, default=Path("data"), help="folder with prepared, schedule and features")
    return made


def _networks(workspace: Workspace, arguments: argparse.Namespace) -> list[ComparedNetwork]:
    if arguments.quick:
        return untrained_networks(workspace)
    if arguments.models is None:
        raise FoundryError("--models: should be the --scratch folder of a run of benchmarks.time_to_quality")
    return trained_networks(workspace, arguments.models, arguments.minutes, arguments.seed)


def measure(
    networks: Sequence[ComparedNetwork], workspace: Workspace, folder: Path, *, num_samples: int, quick: bool
) -> dict[str, Any]:
    """Find the steps of equal quality, then measure the speed of all methods in turn."""
    evaluator = load_evaluator(workspace.data / "features", workspace.dataset)
    params = workspace.params.evaluate.model_copy(update={"num_samples": num_samples})
    numbers = STEPS[:2] if quick else STEPS
    ddim = Sampling("ddim", numbers[-1] if quick else DDIM_STEPS, has_own_times=False)
    methods, qualities = [], {}
    for network in networks:
        methods.append(network.eager(ddim))
        if not network.is_trained:
            continue
        wanted = network.quality(ddim, workspace, evaluator, params)
        steps, quality = _fewest_steps(network, wanted, numbers, workspace, evaluator, params)
        log_progress(
            f"{network.name}: {steps} steps, KID {quality.kid:.3g}; {ddim.num_steps} of DDIM, KID {wanted.kid:.3g}"
        )
        qualities[network.name] = {
            "steps": steps,
            "kid": quality.kid,
            "ddim_kid": wanted.kid,
            "ddim_kid_standard_error": wanted.standard_error,
        }
        methods.append(network.eager(Sampling(network.sampler, steps)))
        methods += filter(None, [network.exported(steps, folder)])
    batch_sizes = BATCH_SIZES[:2] if quick else BATCH_SIZES
    return {"qualities": qualities, "speeds": _speeds(methods, batch_sizes, rounds=1 if quick else 3)}


def _fewest_steps(
    network: ComparedNetwork,
    wanted: Quality,
    numbers: Sequence[int],
    workspace: Workspace,
    evaluator: Evaluator,
    params: EvaluateParams,
) -> tuple[int, Quality]:
    qualities: dict[int, Quality] = {}

    def is_enough(steps: int) -> bool:
        qualities[steps] = network.quality(Sampling(network.sampler, steps), workspace, evaluator, params)
        return qualities[steps].is_as_good_as(wanted)

    steps = fewest(numbers, is_enough)
    return steps, qualities.get(steps, wanted)


def fewest(numbers: Sequence[int], is_enough: Callable[[int], bool]) -> int:
    """Return the smallest of increasing numbers that is enough, by bisection; the last counts as enough."""
    low, high = 0, len(numbers) - 1
    while low < high:
        middle = (low + high) // 2
        if is_enough(numbers[middle]):
            high = middle
        else:
            low = middle + 1
    return numbers[low]


def _speeds(methods: Sequence[DrawMethod], batch_sizes: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Return the median images/s of each method and batch size."""
    speeds = []
    for batch_size in batch_sizes:
        log_progress(f"batches of {batch_size}")
        arms = {str(number): _timed_batch(method, batch_size) for number, method in enumerate(methods)}
        for number, seconds in in_turn(arms, rounds).items():
            method = methods[int(number)]
            facts = {"name": method.name, "steps": method.num_steps, "backend": method.backend}
            speeds.append({**facts, "batch_size": batch_size, "images_per_sec": batch_size / median(seconds)})
    return speeds


def _timed_batch(method: DrawMethod, batch_size: int) -> Callable[[], float]:
    return lambda: time_call(lambda: method.draw(batch_size))


def report(document: Mapping[str, Any]) -> str:
    """Return the tables of docs/benchmarks.md."""
    qualities = [
        [name, *(quality[key] for key in ("ddim_kid", "ddim_kid_standard_error", "steps", "kid"))]
        for name, quality in document["qualities"].items()
    ]
    speeds = document["speeds"]
    sizes = list(dict.fromkeys(speed["batch_size"] for speed in speeds))
    by_method: dict[tuple[Any, ...], dict[int, float]] = {}
    for speed in speeds:
        method = (speed["name"], speed["backend"], speed["steps"])
        by_method.setdefault(method, {})[speed["batch_size"]] = speed["images_per_sec"]
    base = next((rates for method, rates in by_method.items() if method[0] == "diffusers"), None)
    rows = [
        [*method, *(_rate(rates[size], base[size] if base else None) for size in sizes)]
        for method, rates in by_method.items()
    ]
    return "\n".join(
        [
            table(["network", "KID, DDIM", "its error", "steps of equal quality", "their KID"], qualities),
            table(["network", "by", "steps", *(f"images/s, batch {size}" for size in sizes)], rows),
        ]
    )


def _rate(rate: float, base: float | None) -> str:
    """Format a rate, with its ratio to the rate of diffusers' pipeline with all its steps."""
    return f"{rate:.3g} (x{rate / base:.1f})" if base else f"{rate:.3g}"


if __name__ == "__main__":
    cli.run(main)
