"""A checkout of the whole project with other data and small params, as a user would have it."""

import os
import shutil
import subprocess
from copy import copy
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from tests.faults.namespaces import without_network

ROOT = Path(__file__).parents[1]
NUM_IMAGES = 600
CHANGES = {
    "prepare": {
        "source": "arrays",
        "class_names": None,
        "image_size": [8, 6],
        "channels": 4,
        "held_out_share": 0.3,
        "min_num_images": 100,
        # Strokes of one pixel, cut at the sides: 3 % of the digits have little in common with the pixels beside them.
        "max_noise_share": 0.05,
    },
    "schedule": {"num_timesteps": 8},
    "features": {"num_images": 20_000},
    "train": {
        "num_images": 6_400,
        "num_grids": 1,
        "num_snapshots": 2,
        "network": {"widths": [16], "num_blocks": 1, "patch_size": 1, "attention": False, "dropout": 0.0},
    },
    "evaluate": {
        "num_samples": 200,
        "num_steps": 8,
        "baseline_components": 10,
        "likelihood_num_images": 20,
        "compared_rows": [4],
    },
    "register": {"model_name": "digits"},
}


class Project:
    """A checkout, and commands in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_", "GIT_"))},
            "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
            "OMP_NUM_THREADS": "1",
            "DVC_NO_ANALYTICS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    def clone(self, folder: Path) -> "Project":
        """What another machine gets from git."""
        self.run("git", "clone", "-q", ".", str(folder))
        other = copy(self)
        other.folder, other.environment = folder, self.environment | {"PYTHONPATH": str(folder)}
        return other

    def run(self, *command: str) -> str:
        """Standard output of a command that must end well."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "-c", "user.name=a", "-c", "user.email=a@b.example", "commit", "-qm", message)


def check_out(folder: Path) -> Project:
    """This work tree's files, without its data and with the params of `CHANGES`."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists() and name not in {"data/raw.dvc", "dvc.lock"}:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    document = yaml.safe_load((ROOT / "tests" / "params.yaml").read_text())
    for section, changes in CHANGES.items():
        document[section] |= changes
    (folder / "params.yaml").write_text(yaml.safe_dump(document))
    return Project(folder)


WATCH = ROOT / "tests" / "faults" / "watch"
CHECKOUT, LOG = "project", "watch.log"
"""What `run_pipeline` makes: a project, and what the watch has heard in its processes."""


def run_pipeline(folder: Path, digits: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> None:
    """Run `dvc repro` on some digits with no more settings than a fresh clone has, under watch and without a network."""
    made = check_out(folder / CHECKOUT)
    (made.folder / "data" / "raw").mkdir(parents=True)
    images, labels = (each[:NUM_IMAGES] for each in digits)
    np.savez(made.folder / "data" / "raw" / "digits.npz", images=images, labels=labels)
    made.run("git", "init", "-q", "-b", "main")
    made.run("dvc", "add", "-q", "data/raw")
    made.commit("A project")
    watch(made, folder / LOG).run(*without_network(), "dvc", "repro")


def watch(project: Project, log: Path) -> Project:
    """The same, but every process is under watch (tests/faults/watch), and no setting turns off anybody's telemetry."""
    watched = copy(project)
    settings = {"DVC_NO_ANALYTICS", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "BENTOML_DO_NOT_TRACK"}
    watched.environment = {
        **{name: value for name, value in project.environment.items() if name not in settings},
        "PYTHONPATH": f"{WATCH}:{project.folder}",
        "WATCH_LOG": str(log),
        "NPROC": "1",
    }
    return watched
