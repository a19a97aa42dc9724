"""What a row of the network costs in one thread, by the number of rows in a call, and which operations take the time.

    python -m benchmarks.row_cost --out benchmarks/results/row_cost.json

The network of params.yaml with new weights, in eager torch in both memory layouts and by ONNX Runtime with the service's
settings and with others. All arms in turn, the least processor time of several calls: other work on the machine hardly
changes it.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import onnxruntime
import torch

from benchmarks.protocol import finish, parser, table
from benchmarks.speed import new_model, row_inputs
from pipeline import cli
from pipeline.export.onnx import write_onnx
from pipeline.inference.cores import denoiser_here
from pipeline.params import load_params
from service.engine.onnx import OnnxDenoiser

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from pipeline.artefacts.model import Model
    from pipeline.diffusion.denoiser import Denoiser

NUM_ROWS = (1, 2, 4, 8, 16, 64)
PROFILED_ROWS = (1, 8)
SETTINGS: dict[str, dict[str, Any]] = {
    "without its arena": {"enable_cpu_mem_arena": False},
    "without memory patterns": {"enable_mem_pattern": False},
    "without its layout for convolutions": {
        "graph_optimization_level": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    },
}
"""Each differs from the service's in one thing."""


def main() -> None:
    arguments = parser("row_cost", __doc__).parse_args()
    torch.set_num_threads(1)
    repeats, params = 2 if arguments.quick else 6, load_params()
    model = new_model(params)
    with TemporaryDirectory() as folder, torch.inference_mode():
        path = Path(folder) / "denoiser.onnx"
        write_onnx(model, path)
        costs = row_costs(arms(model, new_model(params), path), model, repeats)
        shares = {rows: operation_shares(path, model, rows, repeats) for rows in PROFILED_ROWS}
    text = table(["ms per row", *map(str, NUM_ROWS)], [[name, *by_rows.values()] for name, by_rows in costs.items()])
    most = [name for name, _ in Counter(shares[PROFILED_ROWS[-1]]).most_common(8)]
    text += "\n" + table(
        ["share of ONNX Runtime's time", *(f"{rows} rows" for rows in PROFILED_ROWS)],
        [[name, *(f"{shares[rows].get(name, 0):.0%}" for rows in PROFILED_ROWS)] for name in most],
    )
    finish(arguments, {"ms_per_row": costs, "shares": shares}, text)


def arms(model: Model, other: Model, path: Path) -> dict[str, Denoiser]:
    """The denoisers by name; `other` is the same model, whose memory layout changes."""
    found: dict[str, Denoiser] = {
        "torch": model.denoiser(),
        "torch, channels_last": denoiser_here(other),
        "ONNX Runtime": OnnxDenoiser(path, model, threads=1),
    }
    return found | {f"ONNX Runtime {name}": Session(path, **options) for name, options in SETTINGS.items()}


def row_costs(denoisers: Mapping[str, Denoiser], model: Model, repeats: int) -> dict[str, dict[int, float]]:
    """Milliseconds of processor time per row, by arm and number of rows."""
    costs: dict[str, dict[int, float]] = {name: {} for name in denoisers}
    for rows in NUM_ROWS:
        inputs = row_inputs(model, rows)
        for name, denoiser in denoisers.items():
            denoiser(*inputs)
            least = min(_processor_seconds(lambda: denoiser(*inputs)) for _ in range(repeats))  # noqa: B023  # called here
            costs[name][rows] = 1e3 * least / rows
    return costs


def operation_shares(path: Path, model: Model, rows: int, repeats: int) -> dict[str, float]:
    """The share of each kind of operation in the time of the graph, by ONNX Runtime's profile."""
    session = Session(path, enable_profiling=True, profile_file_prefix=str(path.with_suffix("")))
    inputs = row_inputs(model, rows)
    for _ in range(repeats):
        session(*inputs)
    seconds: Counter[str] = Counter()
    for event in json.loads(Path(session.session.end_profiling()).read_text(encoding="utf-8")):
        if event["name"].endswith("_kernel_time"):
            seconds[event["args"]["op_name"]] += event["dur"]
    return {name: each / seconds.total() for name, each in seconds.items()}


class Session:
    """An ONNX file as a denoiser, in one thread and with other options than the service's."""

    def __init__(self, path: Path, **changes: object) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        for name, value in changes.items():
            setattr(options, name, value)
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        inputs = {"x": x.numpy(), "t": t.numpy()} | ({} if labels is None else {"labels": labels.numpy()})
        return torch.from_numpy(self.session.run(None, inputs)[0])


def _processor_seconds(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start


if __name__ == "__main__":
    cli.run(main)
