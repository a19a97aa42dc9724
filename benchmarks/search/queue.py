"""Queue every candidate as a DVC experiment that trains for the same time.

    python -m benchmarks.search.queue benchmarks/search/candidates.txt --minutes 3
    dvc queue start

Each line of the file has a name and the candidate's changes of params.yaml; no change is the project as it is. Short
trainings of the first candidate determine how many images it sees in the time, and steps of all candidates in turn
determine the others' numbers (`train.num_images`). Trainings draw no grids, and `evaluate` omits the measurements by which
candidates do not differ. Nothing else should run on the machine.
"""

import argparse
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import torch

from benchmarks.protocol import ROOT, log_progress, python, run_command
from benchmarks.systems import OurArm, Workspace, images_per_sec_in_turn, make_training, untrained_model
from benchmarks.throughput import measure_throughput
from pipeline import cli
from pipeline.commands.set_params import set_params
from pipeline.params import load_params
from pipeline.training.distributed import num_workers

ROUNDS, STEPS = 12, 2
"""Rounds in which all candidates train in turn, and steps per round."""
LEAST_TRIAL = 1 / 8
"""Minimum length of the longest short training, as a share of the time."""
SHARED_CHANGES = (
    "train.num_grids=0",
    "evaluate.tuning_rows=0",
    "evaluate.compared_rows=[]",
    "evaluate.likelihood_num_images=2",
)
"""Changes of params.yaml that all candidates share."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A name, and changes in the syntax of `dvc exp run -S`."""

    name: str
    changes: tuple[str, ...]

    @classmethod
    def read(cls, line: str) -> Self:
        name, *changes = shlex.split(line)
        return cls(name, tuple(changes))


def main() -> None:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.search.queue",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("candidates", type=Path, metavar="FILE")
    made.add_argument("--minutes", type=float, default=3.0, help="length of each training (default: %(default)g)")
    arguments = made.parse_args()
    listed = read_candidates(arguments.candidates.read_text(encoding="utf-8"))
    seconds = 60 * arguments.minutes
    with TemporaryDirectory(prefix="foundry-") as scratch:
        workspaces = {each.name: candidate_workspace(each, Path(scratch)) for each in listed}
        first = measure_throughput(partial(time_training, workspaces[listed[0].name]), LEAST_TRIAL * seconds).images_in(
            seconds
        )
        rates = candidate_images_per_sec(workspaces)
    for candidate in listed:
        num_images = round(first * rates[candidate.name] / rates[listed[0].name])
        log_progress(f"{candidate.name}: {num_images} images in {arguments.minutes:g} minutes")
        words = [*SHARED_CHANGES, *candidate.changes, f"train.num_images={num_images}"]
        options = [part for word in words for part in ("-S", word)]
        run_command(python("-m", "dvc", "exp", "run", "--queue", "-n", candidate.name, *options), folder=ROOT)


def read_candidates(text: str) -> list[Candidate]:
    """Read one candidate per line; comments and empty lines are skipped."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [Candidate.read(line) for line in lines if line]


def candidate_workspace(candidate: Candidate, scratch: Path) -> Workspace:
    """Return the project's data with the candidate's params."""
    params = scratch / f"{candidate.name}.yaml"
    shutil.copyfile(ROOT / "params.yaml", params)
    set_params(params, [*SHARED_CHANGES, *candidate.changes])
    return Workspace(ROOT / "data", scratch, load_params(params))


def time_training(workspace: Workspace, num_images: int) -> float:
    """Train and return the time, seconds."""
    with TemporaryDirectory(dir=workspace.scratch) as folder:
        seconds = OurArm().train(workspace, num_images, 0, Path(folder) / "trial").seconds
    log_progress(f"{num_images} images in {seconds:.1f} s")
    return seconds


def candidate_images_per_sec(workspaces: Mapping[str, Workspace]) -> dict[str, float]:
    """Return the images/s of one process of each candidate's training: one thread, its share of the batch."""
    torch.set_num_threads(1)
    trainings = {}
    for name, workspace in workspaces.items():
        batch_size = workspace.params.train.batch_size
        share = batch_size // num_workers(batch_size)
        trainings[name] = make_training(workspace, untrained_model(workspace).network, batch_size=share)
    return images_per_sec_in_turn(trainings, ROUNDS, STEPS)


if __name__ == "__main__":
    cli.run(main)
