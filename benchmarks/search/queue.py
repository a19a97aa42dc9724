"""Queue each candidate as an experiment that trains for the same time.

    python -m benchmarks.search.queue benchmarks/search/candidates.txt --minutes 3
    dvc queue start

A line of the file is a name and what the candidate changes in params.yaml; an empty change is the project as it is. How
many images the first one sees in the time follows from short trainings of its own, and what the others see from steps
of all in turn: `train.num_images` is set to that. Trainings draw no grids, and `evaluate` leaves out what does not tell
candidates apart. Nothing else should run.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.protocol import ROOT, python, run_command, say
from benchmarks.systems import Ground, Ours, rates_in_turn, training_of, untrained_model
from benchmarks.throughput import pace_of
from pipeline import cli
from pipeline.commands.set_params import override
from pipeline.params import load_params
from pipeline.training.distributed import num_workers

ROUNDS, STEPS = 12, 2
"""Of every candidate's training, in turn with the others'."""
LEAST_TRIAL = 1 / 8
"""Of the time: how long the longest of the short trainings takes."""
LEAN = (
    "train.num_grids=0",
    "evaluate.tuning_rows=0",
    "evaluate.compared_steps=[]",
    "evaluate.likelihood_num_images=2",
)
"""Changes of every candidate."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A name, and words as `dvc exp run -S` takes them."""

    name: str
    changes: tuple[str, ...]

    @classmethod
    def read(cls, line: str) -> Candidate:
        name, *changes = shlex.split(line)
        return cls(name, tuple(changes))


def main() -> None:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.search.queue",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("candidates", type=Path, metavar="FILE")
    made.add_argument("--minutes", type=float, default=3.0, help="of each training (default: %(default)g)")
    arguments = made.parse_args()
    listed = candidates(arguments.candidates.read_text(encoding="utf-8"))
    seconds = 60 * arguments.minutes
    with TemporaryDirectory(prefix="foundry-") as scratch:
        grounds = {each.name: ground_of_candidate(each, Path(scratch)) for each in listed}
        first = pace_of(partial(trial, grounds[listed[0].name]), LEAST_TRIAL * seconds).images_in(seconds)
        speeds = speeds_in_turn(grounds)
    for candidate in listed:
        num_images = round(first * speeds[candidate.name] / speeds[listed[0].name])
        say(f"{candidate.name}: {num_images} images in {arguments.minutes:g} minutes")
        words = [*LEAN, *candidate.changes, f"train.num_images={num_images}"]
        options = [part for word in words for part in ("-S", word)]
        run_command(python("-m", "dvc", "exp", "run", "--queue", "-n", candidate.name, *options), folder=ROOT)


def candidates(text: str) -> list[Candidate]:
    """One a line, but for comments and empty lines."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [Candidate.read(line) for line in lines if line]


def ground_of_candidate(candidate: Candidate, scratch: Path) -> Ground:
    """The project's data with the candidate's params."""
    params = scratch / f"{candidate.name}.yaml"
    shutil.copyfile(ROOT / "params.yaml", params)
    override(params, [*LEAN, *candidate.changes])
    return Ground(ROOT / "data", scratch, load_params(params))


def trial(ground: Ground, num_images: int) -> float:
    """Seconds of a training."""
    with TemporaryDirectory(dir=ground.scratch) as folder:
        seconds = Ours().train(ground, num_images, 0, Path(folder) / "trial").seconds
    say(f"{num_images} images in {seconds:.1f} s")
    return seconds


def speeds_in_turn(grounds: Mapping[str, Ground]) -> dict[str, float]:
    """Images a second of a process of each candidate's training, which has one thread and its share of the batch."""
    torch.set_num_threads(1)
    trainings = {}
    for name, ground in grounds.items():
        batch_size = ground.params.train.batch_size
        share = batch_size // num_workers(batch_size)
        trainings[name] = training_of(ground, untrained_model(ground).network, batch_size=share)
    return rates_in_turn(trainings, ROUNDS, STEPS)


if __name__ == "__main__":
    cli.run(main)
