"""Queue each candidate as an experiment that trains for the same time.

    python -m benchmarks.search.queue benchmarks/search/candidates.txt --minutes 3
    dvc queue start

A line of the file is a name and what the candidate changes in params.yaml; an empty change is the project as it is. Two
short trainings tell how many images it sees in the time, and `train.num_images` is set to that. Nothing else should run.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.contestants import Ground, Ours
from benchmarks.protocol import ROOT, python, run_command, say
from benchmarks.time_to_quality import LEAST_TRIAL, pace_of
from pipeline import command
from pipeline.override import override
from pipeline.params import load_params


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
    for candidate in candidates(arguments.candidates.read_text(encoding="utf-8")):
        num_images = images_in(60 * arguments.minutes, candidate)
        say(f"{candidate.name}: {num_images} images in {arguments.minutes:g} minutes")
        words = [*candidate.changes, f"train.num_images={num_images}"]
        options = [part for word in words for part in ("-S", word)]
        run_command(python("-m", "dvc", "exp", "run", "--queue", "-n", candidate.name, *options), folder=ROOT)


def candidates(text: str) -> list[Candidate]:
    """One a line, but for comments and empty lines."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [Candidate.read(line) for line in lines if line]


def images_in(seconds: float, candidate: Candidate) -> int:
    """How many images this candidate sees in the time."""
    with TemporaryDirectory(prefix="foundry-") as folder:
        scratch = Path(folder)
        shutil.copyfile(ROOT / "params.yaml", scratch / "params.yaml")
        override(scratch / "params.yaml", list(candidate.changes))
        ground = Ground(ROOT / "data", scratch, load_params(scratch / "params.yaml"))

        def trial(num_images: int) -> float:
            return Ours().train(ground, num_images, 0, scratch / f"{num_images}").seconds

        return pace_of(trial, LEAST_TRIAL * seconds).images_in(seconds)


if __name__ == "__main__":
    command.run(main)
