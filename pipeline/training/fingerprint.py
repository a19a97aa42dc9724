"""What makes a training the same training: digests of its code, params, data, schedule and libraries."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.artefacts.dataset import Dataset
from pipeline.artefacts.schedule_table import ScheduleTable
from pipeline.params import TrainParams

HERE = Path(__file__).parents[1]
# What the order of the images, the network and its updates are made of; logging and drawing do not change weights.
TRAINING_CODE = (
    "device.py",
    "artefacts/dataset.py",
    *(f"training/{name}.py" for name in ("distributed", "loop", "muon")),
    *(f"diffusion/{name}.py" for name in ("density", "ema", "images", "loss", "noise", "target", "unet", "weighting")),
)
LIBRARIES = ("torch", "numpy")


def provenance(params: TrainParams, prepared: Dataset, table: ScheduleTable) -> dict[str, str]:
    """Digests of all that the weights follow from."""
    settings = params.model_dump(mode="json")
    if params.learning_rate_plan == "constant":
        # The length changes no step after the warm-up, so a longer training goes on from a shorter one.
        settings["warmup_share"] *= math.ceil(settings.pop("num_images") / params.batch_size)
    return {
        "code_digest": digest_of((HERE / name).read_bytes() for name in TRAINING_CODE),
        "data_digest": prepared.info.digest,
        "libraries": " ".join(f"{name}=={version(name)}" for name in LIBRARIES),
        "params_digest": digest_of([canonical(settings)]),
        "schedule_digest": digest_of(
            column.numpy().tobytes()
            for column in (table.schedule.beta, table.density, table.weight("x0", params.weighting))
        ),
    }


def training_key(origin: Mapping[str, str]) -> str:
    """The name of a training's resume state."""
    return digest_of([canonical(origin)])[:32]


def canonical(document: Any) -> bytes:
    """JSON bytes that are equal for equal documents."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def digest_of(parts: Iterable[bytes]) -> str:
    """SHA-256 over parts, each with its length, so that no boundary can move unseen."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
