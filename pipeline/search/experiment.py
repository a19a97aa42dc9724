"""One DVC experiment in a temporary folder, which leaves the work tree alone, and a look at its training."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from pipeline.provenance.dvc import dvc, environment
from pipeline.provenance.git import git, main_worktree
from pipeline.provenance.revisions import experiment_commit

TRAINING = "pipeline.train"
METRICS, HELD_OUT = "data/evaluation/metrics.json", Path("data/model/held_out.csv")


class Experiment:
    """A `dvc exp run` that is under way."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.name, self._process = name, process

    def is_running(self, wait_sec: float) -> bool:
        """Whether the experiment is still running after `wait_sec` seconds."""
        try:
            self._process.wait(wait_sec)
        except subprocess.TimeoutExpired:
            return True
        return False

    def stop(self) -> None:
        """End it as Ctrl-C does: the training saves its state, and DVC removes its folder."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGINT)
            self._process.wait()

    def held_out_errors(self) -> dict[int, float]:
        """Held-out errors that the training has measured so far, by images seen; empty before it begins."""
        folder = self._training_folder()
        return _held_out_errors(folder / HELD_OUT) if folder else {}

    def all_held_out_errors(self) -> dict[int, float]:
        """Held-out errors by images seen, of a training that has ended or that DVC has taken from its cache."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / HELD_OUT.name
            commit = experiment_commit(self.name) or "HEAD"
            dvc("get", str(main_worktree()), str(HELD_OUT), "--rev", commit, "--out", str(path))
            return _held_out_errors(path)

    def metrics(self) -> dict[str, Any] | None:
        """What the evaluation measured; None if the experiment has failed."""
        commit = None if self._process.returncode else experiment_commit(self.name)
        if commit is None:
            return None
        measured: dict[str, Any] = json.loads(git("show", f"{commit}:{METRICS}", folder=main_worktree()))
        return measured

    def _training_folder(self) -> Path | None:
        """The folder in which the training runs. Before it does, it has the held-out errors of the model in dvc.lock."""
        try:
            for process in psutil.Process(self._process.pid).children(recursive=True):
                if TRAINING in process.cmdline():
                    return Path(process.cwd())
        except psutil.Error:
            # It has just ended.
            pass
        return None


def _held_out_errors(path: Path) -> dict[int, float]:
    try:
        with path.open(encoding="utf-8") as file:
            return {int(row["images"]): float(row["train/held_out_mse"]) for row in csv.DictReader(file)}
    except FileNotFoundError:
        return {}


@contextmanager
def running(name: str, options: Iterator[str]) -> Iterator[Experiment]:
    """Run the pipeline as the experiment `name` with changes like `train.seed=1`; leaving the block ends it.

    What it prints goes to standard error. In a process group of its own: a Ctrl-C reaches it once, when the block is left.
    """
    words = [word for option in options for word in ("-S", option)]
    process = subprocess.Popen(  # noqa: S603  # the arguments are ours
        [sys.executable, "-m", "dvc", "exp", "run", "--temp", "--name", name, *words],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        env=environment(),
        process_group=0,
    )
    experiment = Experiment(name, process)
    try:
        yield experiment
    finally:
        experiment.stop()
