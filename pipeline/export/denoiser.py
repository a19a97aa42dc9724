"""The denoiser of a model as one traceable module, and the comparison of every export with its model."""

import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import TypeVar

import torch
from torch import Tensor, nn

from pipeline.artefacts.model import EXPORT_TOLERANCE, Model, default_plan
from pipeline.diffusion.images import clipped
from pipeline.errors import FoundryError

Denoise = Callable[..., Tensor]
"""(x, t) or (x, t, labels) -> denoised."""
Result = TypeVar("Result")


class ExportError(FoundryError):
    """The model cannot be written in this format; the message gives the reason."""


class ExportableDenoiser(nn.Module):
    """`(x, t, labels) -> denoised` for any number of rows, with all tables as buffers.

    `x` is float32 `[rows, channels, height, width]`, `t` and `labels` are int64 `[rows]`; a model without classes
    takes no `labels`.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network = model.network
        self.coefficients: Tensor
        self.register_buffer("coefficients", model.denoiser().coefficients.float())

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        P, Q = self.coefficients[t][:, :, None, None, None].unbind(1)
        return clipped(P * x + Q * self.network(x, t, labels))


def trace(model: Model) -> torch.export.ExportedProgram:
    """Trace the denoiser for any number of rows.

    Raises:
        ExportError: torch cannot trace the network.
    """
    rows = torch.export.Dim("rows", min=1)
    example = _random_inputs(model, 2)
    shapes = tuple({0: rows} for _ in example)
    program = attempt(lambda: torch.export.export(ExportableDenoiser(model).eval(), example, dynamic_shapes=shapes))
    for node in program.graph.nodes:
        # It holds paths of this machine.
        node.meta.pop("stack_trace", None)
    return program


def attempt(export: Callable[[], Result]) -> Result:
    """Call an exporter, or the runtime of a format, without its warnings, which are about its own code.

    Raises:
        ExportError: for whatever it raises, but for a missing package.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            return export()
    except ModuleNotFoundError:
        raise
    # They raise many kinds of errors, some of them private; all mean this.
    except Exception as error:
        raise ExportError(f"the network cannot be written in this format: {error}") from error


def metadata(model: Model) -> str:
    """JSON of what sampling needs besides the denoiser.

    Each step on `times` is x' = A x + B denoised + C denoised_prev + D z with its row A, B, C, D of `coefficients`;
    `denoised` is clipped to [-1, 1] if `clip` is true. A step whose `guidance` s is not 1 calls the denoiser with the class
    and with class `num_classes`, none, too, and goes on with s times the one and 1 - s times the other, clipped again.
    """
    plan = default_plan(model)
    facts = {
        "model_digest": model.digest,
        "data": asdict(model.description.data),
        "sampler": plan.sampler,
        "times": plan.times.tolist(),
        "coefficients": plan.coefficients.tolist(),
        "guidance": plan.guidance.tolist(),
        "clip": True,
    }
    return json.dumps(facts, sort_keys=True)


def check_denoiser(model: Model, exported: Denoise) -> None:
    """Compare an exported denoiser with the model on random inputs.

    Raises:
        ExportError: a pixel differs by more than the tolerance.
    """
    denoiser = model.denoiser()
    for rows in (1, 3):
        x, t, *labels = _random_inputs(model, rows)
        check_equal(exported(x, t, *labels), denoiser(x, t, labels[0] if labels else None))


def check_equal(exported: Tensor, expected: Tensor) -> None:
    """Raise ExportError if a pixel differs by more than the tolerance, relative for values beyond 1."""
    difference = ((exported - expected).abs() / expected.abs().clamp(min=1)).max().item()
    # Written so that NaN fails too.
    if not difference <= EXPORT_TOLERANCE:
        raise ExportError(f"the export differs from the model by {difference:.1e}, more than {EXPORT_TOLERANCE:.0e}")


def _random_inputs(model: Model, rows: int) -> tuple[Tensor, ...]:
    """Inputs of the denoiser; `t` spans the schedule from its noisiest end."""
    generator, T = torch.Generator().manual_seed(rows), model.schedule.num_timesteps
    x = torch.randn(rows, *model.description.data.shape, generator=generator)
    t = torch.linspace(T - 1, 0, rows).long()
    if model.null_label is None:
        return x, t
    return x, t, torch.randint(model.null_label + 1, (rows,), generator=generator)
