"""Short measurements of what is worth keeping fast, for `benchmarks.compare`: each a number of seconds.

    python -m benchmarks.speed --out FILE

The network of params.yaml with new weights, on random pixels: no data and no trained model are needed. Each number is the
least of several repeats, since whatever else the machine does makes work longer, never shorter; a training step's is the median.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.protocol import finish, parser, python, run_command, table, time_call
from pipeline import cli
from pipeline.artefacts.model import DataSpec, Description, Model, build_network
from pipeline.artefacts.sampling_defaults import SamplingDefaults
from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.seeds import image_seed
from pipeline.export.onnx import write_onnx
from pipeline.inference.draw import draw
from pipeline.params import Params, load_params
from pipeline.training.distributed import num_workers
from pipeline.training.pace import measure
from service.engine.onnx import OnnxDenoiser

NUM_DRAWN, NUM_STEPS, GUIDANCE = 64, 5, 1.2
ROWS = 8
"""The service's default."""


def main() -> None:
    arguments = parser("speed", __doc__).parse_args()
    repeats = 1 if arguments.quick else 5
    params = load_params()
    model = new_model(params)
    with TemporaryDirectory() as folder:
        found = {
            "start of a stage": start_seconds(repeats),
            "training step": step_seconds(params, model),
            f"{NUM_DRAWN} images": draw_seconds(model, repeats),
            f"{ROWS} rows by ONNX Runtime": onnx_seconds(model, Path(folder), 4 * repeats),
        }
    finish(arguments, {"seconds": found}, table(["work", "s"], found.items()))


def new_model(params: Params) -> Model:
    """The model of params.yaml before its training."""
    prepare, train = params.prepare, params.train
    description = Description(
        data=DataSpec(
            image_size=prepare.image_size,
            channels=prepare.channels,
            class_names=tuple(prepare.class_names) if prepare.class_names else None,
            sigma_data=0.5,
        ),
        network=train.network,
        target=train.target,
        sampling=SamplingDefaults(sampler="dpmpp_2m", num_steps=10, guidance_scale=1.0),
    )
    network = build_network(description, seed=0).eval().requires_grad_(requires_grad=False)
    return Model(description, network, NoiseSchedule(cosine_betas(params.schedule.num_timesteps)), digest="untrained")


def start_seconds(repeats: int) -> float:
    """Until `evaluate`, which imports most, could begin."""
    command = python("-c", "import pipeline.evaluate")
    return min(run_command(command, folder=Path.cwd()).seconds for _ in range(repeats))


def step_seconds(params: Params, model: Model) -> float:
    """One step of a training of params.yaml, in as many processes as it would have."""
    data, batch_size = model.description.data, params.train.batch_size
    (pace,) = measure(
        params.train,
        [batch_size],
        num_workers(batch_size),
        image_size=data.image_size,
        channels=data.channels,
        num_classes=data.num_classes,
    )
    return pace.step_sec


def draw_seconds(model: Model, repeats: int) -> float:
    """Guided images, as `evaluate` draws them."""
    seeds = [image_seed(0, i) for i in range(NUM_DRAWN)]
    null, scale = model.null_label, GUIDANCE if model.null_label else 1.0
    labels = [i % null for i in range(NUM_DRAWN)] if null else None

    def work() -> object:
        return draw(model, seeds, labels, num_steps=NUM_STEPS, guidance_scale=scale)

    work()
    return min(time_call(work) for _ in range(repeats))


def onnx_seconds(model: Model, folder: Path, repeats: int) -> float:
    """One call of the network in one thread, as the service makes it."""
    write_onnx(model, folder / "denoiser.onnx")
    denoiser = OnnxDenoiser(folder / "denoiser.onnx", model, threads=1)
    inputs = row_inputs(model, ROWS)
    denoiser(*inputs)
    return min(time_call(lambda: denoiser(*inputs)) for _ in range(repeats))


def row_inputs(model: Model, rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Noise, times and classes for one call."""
    x = torch.randn(rows, *model.description.data.shape, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(model.schedule.num_timesteps - 1, 0, rows).long()
    return x, t, None if model.null_label is None else torch.arange(rows) % model.null_label


if __name__ == "__main__":
    cli.run(main)
