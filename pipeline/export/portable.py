"""A model for other programs: ONNX, a torch.export program, a folder for diffusers; each compared with the model.

The first two hold the denoiser as one function, `(x, t, labels) -> denoised`, for any number of rows: `x` float32
`[rows, channels, height, width]`, `t` and `labels` int64 `[rows]` (no `labels` for a model without classes). The
folder for diffusers holds the network, and the samplers in a pipeline file of its own.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pipeline.artefacts.files import replacing, write_json
from pipeline.artefacts.model import Model, plan_for
from pipeline.artefacts.tensors import save_tensors
from pipeline.diffusion.images import clipped
from pipeline.diffusion.sampling import SAMPLERS, sample
from pipeline.errors import FoundryError

TOLERANCE = 1e-4
"""Largest difference of a pixel in [-1, 1] between a model and its export."""
TEMPLATES = Path(__file__).with_name("templates")
NETWORK_CODE = Path(__file__).parents[1] / "diffusion" / "unet.py"
SEEDS = [0, 1]
"""Of the images that an exported pipeline is compared by."""


class ExportError(FoundryError):
    """The model cannot be written in this form; the message says why."""


class PortableDenoiser(nn.Module):
    """The model's denoiser as one module that holds all of its tables."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network = model.network
        denoiser = model.denoiser()
        self.coefficients: Tensor
        self.register_buffer("coefficients", denoiser.coefficients.float())

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        P, Q = self.coefficients[t][:, :, None, None, None].unbind(1)
        return clipped(P * x + Q * self.network(x, t, labels))


Denoise = Callable[..., Tensor]
"""(x, t) or (x, t, labels) -> denoised."""


def write_torch_export(model: Model, out: Path) -> None:
    """Write a program; `torch.export.load(out).module()` is the denoiser.

    Raises:
        ExportError: torch cannot trace the network, or the program denoises otherwise.

    """
    program = _traced(model)
    # They would be pickled.
    program.example_inputs = None
    with replacing(out) as temporary:
        with temporary.open("wb") as file:
            torch.export.save(program, file, extra_files={"foundry.json": _facts(model)})
        with temporary.open("rb") as file:
            _compare(model, torch.export.load(file).module())


def write_onnx(model: Model, out: Path) -> None:
    """Write one file for opset 18 and later, with digest, classes and the sampler's table in its metadata.

    Raises:
        ExportError: ONNX cannot express the network, or onnxruntime denoises otherwise.

    """
    program = _onnx_program(model)
    program.model.metadata_props["foundry"] = _facts(model)
    with replacing(out) as temporary:
        program.save(temporary, external_data=False)
        check_onnx(model, temporary)


def check_onnx(model: Model, path: Path) -> None:
    """See that a file for ONNX denoises as the model does.

    Raises:
        ExportError: it does not.

    """
    _compare(model, _onnx_denoiser(path))


def write_diffusers(model: Model, out: Path) -> None:
    """Write a folder that `DiffusionPipeline.from_pretrained(out, trust_remote_code=True)` loads.

    Raises:
        ExportError: there is something at `out` already, or the pipeline draws other images.

    """
    if out.exists():
        raise ExportError(f"{out}: is there already")
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        folder = Path(temporary) / out.name
        _write_pipeline(model, folder)
        _compare_pipeline(model, folder)
        folder.rename(out)


def _onnx_program(model: Model) -> torch.onnx.ONNXProgram:
    program = _tried(lambda: torch.onnx.export(_traced(model), output_names=["denoised"], verbose=False))
    if program is None:
        raise ExportError("the ONNX exporter has made nothing")
    return program


def _traced(model: Model) -> torch.export.ExportedProgram:
    rows = torch.export.Dim("rows", min=1)
    example = _random_rows(model, 2)
    shapes = tuple({0: rows} for _ in example)
    program = _tried(lambda: torch.export.export(PortableDenoiser(model).eval(), example, dynamic_shapes=shapes))
    for node in program.graph.nodes:
        # It names the place of the network's code on this machine.
        node.meta.pop("stack_trace", None)
    return program


Result = TypeVar("Result")


def _tried(export: Callable[[], Result]) -> Result:
    """What torch's exporters make; what they say of their own code and of ours is no news to the user."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            return export()
    except ModuleNotFoundError:
        raise
    # They raise errors of many other kinds, all of which mean this.
    except Exception as error:
        raise ExportError(f"the network cannot be written in this form: {error}") from error


def _facts(model: Model) -> str:
    """What is needed to sample with the denoiser: x' = A x + B denoised + C denoised_prev + D z, clipped, on `times`."""
    description, sampling = model.description, model.description.sampling
    plan = plan_for(model, sampling.sampler, sampling.num_steps)
    facts = {
        "model_digest": model.digest,
        "data": asdict(description.data),
        "sampler": plan.sampler,
        "times": plan.times.tolist(),
        "coefficients": plan.coefficients.tolist(),
        "clip": plan.clip,
    }
    return json.dumps(facts, sort_keys=True)


def _random_rows(model: Model, rows: int) -> tuple[Tensor, ...]:
    """Rows at the ends of the schedule and in between, as the denoiser takes them."""
    generator, T = torch.Generator().manual_seed(rows), model.schedule.num_timesteps
    x = torch.randn(rows, *model.description.data.shape, generator=generator)
    t = torch.linspace(T - 1, 0, rows).long()
    if model.null_label is None:
        return x, t
    return x, t, torch.randint(model.null_label + 1, (rows,), generator=generator)


def _compare(model: Model, exported: Denoise) -> None:
    denoiser = model.denoiser()
    for rows in (1, 3):
        x, t, *classes = _random_rows(model, rows)
        _require_equal(exported(x, t, *classes), denoiser(x, t, classes[0] if classes else None))


def _require_equal(found: Tensor, wanted: Tensor) -> None:
    difference = ((found - wanted).abs() / wanted.abs().clamp(min=1)).max().item()
    if not difference <= TOLERANCE:
        raise ExportError(f"the export differs from the model by {difference:.1e}, more than {TOLERANCE:.0e}")


def _onnx_denoiser(path: Path) -> Denoise:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def denoise(*inputs: Tensor) -> Tensor:
        arrays = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, arrays)[0])

    return denoise


def _write_pipeline(model: Model, folder: Path) -> None:
    description, schedule = model.description, model.schedule
    data, network = description.data, asdict(description.network)
    (folder / "unet").mkdir(parents=True)
    shutil.copyfile(TEMPLATES / "foundry_pipeline.py", folder / "foundry_pipeline.py")
    (folder / "unet" / "foundry_unet.py").write_text(_network_code(), encoding="utf-8")
    weights = {f"network.{name}": tensor for name, tensor in model.network.state_dict().items()}
    save_tensors(folder / "unet" / "diffusion_pytorch_model.safetensors", weights, {"format": "pt"})
    unet = {"image_size": data.image_size, "channels": data.channels, "num_classes": data.num_classes}
    write_json(folder / "unet" / "config.json", {"_class_name": "FoundryUNet", **unet, "architecture": network})
    index = {
        "_class_name": ["foundry_pipeline", "FoundryPipeline"],
        "unet": ["foundry_unet", "FoundryUNet"],
        "betas": schedule.beta.tolist(),
        "target": description.target,
        "timetables": description.timetables,
        **asdict(description.sampling),
        "class_names": data.class_names,
        "model_digest": model.digest,
    }
    write_json(folder / "model_index.json", index)


def _network_code() -> str:
    """The network's own code and the component around it, in one file that needs nothing of this project."""
    code = (
        NETWORK_CODE.read_text(encoding="utf-8") + "\n\n" + (TEMPLATES / "foundry_unet.py").read_text(encoding="utf-8")
    )
    # Its annotations are never evaluated, so the names that they use need not be there.
    alone = re.sub(r"^from (jaxtyping|pipeline\.\S+) import .*\n", "", code, flags=re.MULTILINE)
    return alone.replace("FoundryError", "ValueError")


def _compare_pipeline(model: Model, folder: Path) -> None:
    """Draw two images with each sampler, here and there."""
    pipeline = _load_pipeline(folder)
    denoiser = model.denoiser()
    labels = [0, model.null_label - 1] if model.null_label else None
    classes = torch.tensor(labels) if labels else None
    for sampler in SAMPLERS:
        plan = plan_for(model, sampler, min(4, model.schedule.num_timesteps))
        wanted = sample(denoiser, plan, SEEDS, classes, model.description.data.shape)
        asked = {"sampler": sampler, "num_inference_steps": plan.num_steps, "guidance_scale": 1.0}
        _require_equal(pipeline(labels, SEEDS, **asked, output_type="pt").images, wanted)


def _load_pipeline(folder: Path) -> Any:
    """The pipeline from its files, without the copies that diffusers makes of them in the user's home."""
    unet = _module(folder / "unet" / "foundry_unet.py").FoundryUNet.from_pretrained(
        folder / "unet", low_cpu_mem_usage=False
    )
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    settings = {name: value for name, value in index.items() if name not in ("_class_name", "unet")}
    pipeline = _module(folder / "foundry_pipeline.py").FoundryPipeline(unet, **settings)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"exported_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ExportError(f"{path}: is no Python module")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look for their module there.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    return module
