"""A whole project of scikit-learn's digits that is made in half a minute, and commands in it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
NUM_IMAGES = 400
CHANGES = {
    "prepare": {
        "source": "arrays",
        "class_names": None,
        "image_size": 8,
        "held_out_share": 0.2,
        "min_num_images": NUM_IMAGES,
    },
    "schedule": {"num_timesteps": 8},
    "features": {"extractor": "random"},
    "train": {
        "num_images": 1600,
        "batch_size": 32,
        "num_grids": 1,
        "num_snapshots": 2,
        "network": {"widths": [8], "num_blocks": 1, "patch_size": 2, "attention": False, "dropout": 0.0},
    },
    "evaluate": {
        "num_samples": 120,
        "num_steps": 4,
        "baseline_components": 10,
        "likelihood_num_images": 20,
        "compared_rows": [],
    },
    "register": {"model_name": "digits"},
}
STAGES = {
    "prepare": ("--raw", "data/raw", "--out", "data/prepared"),
    "schedule": ("--prepared", "data/prepared", "--out", "data/schedule"),
    "features": ("--prepared", "data/prepared", "--out", "data/features"),
    "train": ("--prepared", "data/prepared", "--schedule", "data/schedule", "--out", "data/model"),
    "evaluate": (
        *("--model", "data/model", "--prepared", "data/prepared", "--schedule", "data/schedule"),
        *("--features", "data/features", "--out", "data/evaluation"),
    ),
    "register": ("--model", "data/model", "--evaluation", "data/evaluation", "--out", "data/registration"),
}
"""Every command that writes artefacts, in their order, with its options."""
COMMANDS = {"register": ("model", "register")}
"""Those that are not called as in STAGES."""


def write_inputs(folder: Path, digits: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> None:
    """params.yaml and data/raw."""
    document = yaml.safe_load((ROOT / "tests" / "params.yaml").read_text())
    for section, changes in CHANGES.items():
        document[section] |= changes
    (folder / "params.yaml").write_text(yaml.safe_dump(document))
    (folder / "data" / "raw").mkdir(parents=True)
    np.savez(folder / "data" / "raw" / "digits.npz", images=digits[0][:NUM_IMAGES], labels=digits[1][:NUM_IMAGES])


def environment(**more: str) -> dict[str, str]:
    """Of a command: one process, one thread, and nothing that says where the tracking store is."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
    return {**clean, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NPROC": "1", **more}


def command(stage: str) -> list[str]:
    """The stage in a process of its own."""
    return [sys.executable, "-m", f"pipeline.{stage}", *STAGES[stage]]


def run(
    folder: Path, arguments: list[str], *, prefix: tuple[str, ...] = (), **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, *arguments],
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
