"""Compare what `foundry cost` estimates of a training step, its time and its memory, with the steps themselves.

    python -m benchmarks.training_cost --out benchmarks/results/training_cost.json

For each side the network is the one that `foundry adopt` would choose for colour images, in micro-batches where a whole batch
needs too much memory. The estimate times small batches of it; here whole batches are timed, in as many processes as a training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import psutil

from benchmarks.protocol import finish, log_progress, parser, table
from pipeline.adoption.training_choices import memory_choice, network_for
from pipeline.artefacts.sizes import MIB
from pipeline.params import DistilParams, TrainParams, load_params
from pipeline.training import pace
from pipeline.training.cost import Cost, estimate

SIDES = (32, 64, 128, 256)
CHANNELS, NUM_CLASSES = 3, 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """A step as estimated and as it was."""

    side: int
    micro_batch_size: int | None
    estimated_sec: float
    step_sec: float
    estimated_mib: float
    peak_mib: float
    """Peak memory of the first process."""


def main() -> None:
    made = parser("training_cost", __doc__)
    made.add_argument("--sides", type=int, nargs="+", default=SIDES, help="of the images, pixels (default: all)")
    arguments = made.parse_args()
    params = load_params()
    sides = (16,) if arguments.quick else arguments.sides
    rows = [asdict(compare(side, params.train, params.distil)) for side in sides]
    finish(arguments, {"batch_size": params.train.batch_size, "steps": rows}, report(rows))


def compare(side: int, params: TrainParams, distil: DistilParams) -> Compared:
    """Estimate a step of the network for this side, then take some."""
    shape = {"image_size": side, "channels": CHANNELS, "num_classes": NUM_CLASSES}
    patch_size, widths = network_for(side, CHANNELS)
    network = replace(params.network, patch_size=patch_size, widths=widths)
    params = params.model_copy(update={"network": network, "micro_batch_size": None})
    log_progress(f"{side} pixels: estimating")
    cost = estimate(params, distil, **shape)
    if micro_batch_size := memory_choice(cost, psutil.virtual_memory().available / MIB).value:
        params = params.model_copy(update={"micro_batch_size": micro_batch_size})
        cost = estimate(params, distil, **shape)
    log_progress(f"{side} pixels: {cost.step_sec:.1f} s and {cost.process_mib:.0f} MiB estimated; measuring")
    return measured(side, params, cost, shape)


def measured(side: int, params: TrainParams, cost: Cost, shape: dict[str, Any]) -> Compared:
    (step,) = pace.measure(params, [params.batch_size], cost.num_processes, **shape)
    return Compared(
        side=side,
        micro_batch_size=params.micro_batch_size,
        estimated_sec=cost.step_sec,
        step_sec=step.step_sec,
        estimated_mib=cost.process_mib,
        peak_mib=step.peak_mib,
    )


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """One row for each side."""
    columns = [
        "pixels",
        "images at once",
        "step, s",
        "estimate / step",
        "memory of a process, MiB",
        "estimate / memory",
    ]
    return table(
        columns,
        (
            (
                each["side"],
                each["micro_batch_size"],
                each["step_sec"],
                each["estimated_sec"] / each["step_sec"],
                each["peak_mib"],
                each["estimated_mib"] / each["peak_mib"],
            )
            for each in rows
        ),
    )


if __name__ == "__main__":
    main()
