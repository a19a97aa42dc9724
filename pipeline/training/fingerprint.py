"""Digests of everything that determines trained weights: code, params, data, noise schedule, libraries."""

import ast
import math
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from pipeline.artefacts.dataset import Dataset
from pipeline.artefacts.files import canonical_json, parts_digest
from pipeline.artefacts.schedule_table import ScheduleTable
from pipeline.params import TrainParams

ROOT = Path(__file__).parents[2]
LIBRARIES = ("torch", "numpy")


def training_code(*more: str) -> list[Path]:
    """The files that determine weights: loop.py, initial_network.py, their imports from training/ and diffusion/, device.py, artefacts/dataset.py.

    Logging, previews, checkpoints and samplers do not change weights, and the loop imports none of them.

    Args:
        more: further modules, such as `training/trajectories`, which are added with their imports.
    """
    first = ("training/loop", "training/initial_network", "device", "artefacts/dataset")
    pending = [ROOT / f"pipeline/{name}.py" for name in (*first, *more)]
    found: set[Path] = set()
    while pending:
        path = pending.pop()
        if path not in found:
            found.add(path)
            pending += _imported(path)
    return sorted(found)


def _imported(path: Path) -> list[Path]:
    """The modules of training/ and diffusion/ that a file imports, as `from room.module import name` or `from room import module`."""
    imports = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.ImportFrom)]
    names = [
        name for node in imports for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
    ]
    rooms = ("pipeline.training.", "pipeline.diffusion.")
    files = [ROOT / (name.replace(".", "/") + ".py") for name in names if name and name.startswith(rooms)]
    return [file for file in files if file.exists()]


def code_digest(*more: str) -> str:
    """Digest of the files of `training_code`."""
    return parts_digest(path.read_bytes() for path in training_code(*more))


def provenance(
    params: TrainParams, dataset: Dataset, schedule_table: ScheduleTable, ancestor_digest: str | None = None
) -> dict[str, str]:
    """Digests of everything that determines the weights, by name; `recipe_digest` leaves out the seed.

    Args:
        params: of the training.
        dataset: its images.
        schedule_table: its noise schedule.
        ancestor_digest: digest of the model that it starts from, if any.
    """
    settings = params.model_dump(mode="json")
    if params.learning_rate_plan == "constant":
        # The length changes no step after the warm-up, so a longer training continues a shorter one.
        settings["warmup_share"] *= math.ceil(settings.pop("num_images") / params.batch_size)
    columns = schedule_table.schedule.beta, schedule_table.density, schedule_table.weight("x0", params.weighting)
    shared = {
        "code_digest": code_digest(*(["training/ancestor"] if ancestor_digest else [])),
        "data_digest": dataset.info.digest,
        "libraries": " ".join(f"{name}=={version(name)}" for name in LIBRARIES),
        "schedule_digest": parts_digest(column.numpy().tobytes() for column in columns),
        **({"ancestor_digest": ancestor_digest} if ancestor_digest else {}),
    }
    without_seed = {name: value for name, value in settings.items() if name != "seed"}
    return {
        **shared,
        "params_digest": parts_digest([canonical_json(settings)]),
        "recipe_digest": parts_digest([canonical_json({**shared, "params": without_seed})]),
        "seed": str(params.seed),
    }


def training_key(digests: Mapping[str, str]) -> str:
    """Name of the folder with the checkpoints of a training."""
    return parts_digest([canonical_json(digests)])[:32]
