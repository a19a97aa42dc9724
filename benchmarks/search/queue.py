"""Queue each candidate as an experiment that trains for the same time.

    python -m benchmarks.search.queue benchmarks/search/candidates.txt --minutes 3
    dvc queue start

A line of the file is a name and what the candidate changes in params.yaml; an empty change is the project as it is. Short
trainings, of all candidates in turn, tell how many images each sees in the time, and `train.num_images` is set to that.
Trainings draw no grids, and `evaluate` leaves out what does not tell candidates apart. Nothing else should run.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.contestants import Ground, Ours
from benchmarks.protocol import ROOT, python, run_command, say
from benchmarks.time_to_quality import Pace
from pipeline import command
from pipeline.override import override
from pipeline.params import load_params

TRIALS = (1024, 4096)
"""Images of a shorter and a longer training, which together tell a pace."""
ROUNDS = 2
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
    with TemporaryDirectory(prefix="foundry-") as scratch:
        paces = paces_of(listed, Path(scratch))
    for candidate, pace in zip(listed, paces, strict=True):
        num_images = pace.images_in(60 * arguments.minutes)
        say(f"{candidate.name}: {num_images} images in {arguments.minutes:g} minutes")
        words = [*LEAN, *candidate.changes, f"train.num_images={num_images}"]
        options = [part for word in words for part in ("-S", word)]
        run_command(python("-m", "dvc", "exp", "run", "--queue", "-n", candidate.name, *options), folder=ROOT)


def candidates(text: str) -> list[Candidate]:
    """One a line, but for comments and empty lines."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [Candidate.read(line) for line in lines if line]


def paces_of(listed: Sequence[Candidate], scratch: Path) -> list[Pace]:
    """How fast each trains, by the faster of its trainings: a slow minute of the machine is no slow candidate."""
    asked = list(product(TRIALS, listed))
    rounds = [[trial(each, count, scratch) for count, each in asked] for _ in range(ROUNDS)]
    fastest = [min(seconds) for seconds in zip(*rounds, strict=True)]
    shorter, longer = fastest[: len(listed)], fastest[len(listed) :]
    of_both = zip(shorter, longer, strict=True)
    return [Pace.of(*zip(TRIALS, seconds, strict=True)) for seconds in of_both]


def trial(candidate: Candidate, num_images: int, scratch: Path) -> float:
    """Seconds of a training."""
    with TemporaryDirectory(dir=scratch) as folder:
        params = Path(folder) / "params.yaml"
        shutil.copyfile(ROOT / "params.yaml", params)
        override(params, [*LEAN, *candidate.changes])
        ground = Ground(ROOT / "data", Path(folder), load_params(params))
        return Ours().train(ground, num_images, 0, Path(folder) / "trial").seconds


if __name__ == "__main__":
    command.run(main)
