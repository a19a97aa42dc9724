"""The record of a training in progress: curves, sample grids and checkpoints, which survive a kill."""

import csv
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image

from pipeline.artefacts.files import naming, replacing
from pipeline.errors import CheckFailedError
from pipeline.training import checkpoint
from pipeline.training.loop import Training, TrainStep
from pipeline.training.overfitting import HeldOutError, is_overfitting

NUM_ROWS = 200
"""Rows of curves.csv; each is the mean over one of this many equal parts of the training."""
SHOW_INTERVAL_SEC = 2.0
"""Least time between two versions of the growing curves in the model folder; writing one takes 8 ms."""
GRIDS = "grids"
"""Folder of the sample grids."""
COLUMNS = ("images", "train/loss", "train/grad_norm", "train/learning_rate")
HELD_OUT_COLUMNS = ("images", "train/held_out_mse", "train/linear_denoiser_mse")
"""Columns of held_out.csv, which has one row per snapshot."""


@dataclass(frozen=True, slots=True)
class Phase:
    """The names under which a journal records its training."""

    name: str
    """Prefix of the names of the curves."""
    held_out: tuple[str, ...]
    """Names of the figures that are kept from each measurement on held-out images."""


TRAIN = Phase("train", HELD_OUT_COLUMNS[1:])


class Journal:
    """The curves, grids and checkpoints of one training, all in the folder `store`."""

    def __init__(
        self, store: Path, training: Training, *, checkpoint_interval_sec: float, phase: Phase = TRAIN
    ) -> None:
        self.store, self.training, self.checkpoint_interval_sec = store, training, checkpoint_interval_sec
        self.phase = phase
        self.rows: list[list[float]] = []
        self.held_out_rows: list[list[float]] = []
        self.held_out_errors: list[HeldOutError] = []
        self.run_id: str | None = None
        self.num_images_saved: int | None = None
        self.damaged: list[str] = []
        self._part: list[tuple[float, float]] = []
        self._pending: list[TrainStep] = []
        self.seconds_before = 0.0
        """Duration of the training in earlier processes, up to the checkpoint from which this one resumed."""
        self._began = self._saved_at = self._shown_at = time.monotonic()

    @property
    def seconds(self) -> float:
        """Duration of the training over all its resumed processes; work lost by a kill is not counted."""
        return self.seconds_before + time.monotonic() - self._began

    def resume(self) -> None:
        """Restore training and curves from the newest undamaged checkpoint, if there is one."""
        found, self.damaged = checkpoint.latest(self.store)
        if found is None:
            return
        self.training.restore(found.tensors, found.num_images)
        self.rows, self.run_id = found.notes["rows"], found.notes["run_id"]
        self._part = [(loss, norm) for loss, norm in found.notes["stretch"]]
        self.held_out_rows = found.notes["held_out_rows"]
        self.held_out_errors = [HeldOutError(step, np.array(errors)) for step, errors in found.notes["held_out_errors"]]
        self.num_images_saved = found.num_images
        self.seconds_before, self._began = found.notes.get("seconds", 0.0), time.monotonic()
        if found.num_images == found.notes["length"] < self._length:
            sys.stderr.write(
                f"extending a finished training of {found.num_images} images to {self._length}, which "
                "train.learning_rate_plan constant allows; curves and snapshots keep their old places up to there\n"
            )

    def note(self, step: TrainStep) -> dict[str, float] | None:
        """Add one step to the curves; returns the new row of means if the step completes a part, else None.

        Raises:
            CheckFailedError: as for `collect`.
        """
        self._pending.append(step)
        if not self.training.completed_fraction_boundary(NUM_ROWS):
            return None
        self.collect()
        loss, norm = (float(mean) for mean in np.mean(self._part, axis=0))
        self._part = []
        self.rows.append([step.num_images, loss, norm, step.learning_rate])
        names = (name.replace("train", self.phase.name) for name in COLUMNS[1:])
        return dict(zip(names, self.rows[-1][1:], strict=True))

    def collect(self) -> None:
        """Wait for the losses of the steps since the last call, and check them; until then a GPU runs ahead.

        Raises:
            CheckFailedError: the training has diverged to NaN or infinity.
        """
        steps, self._pending = self._pending, []
        if not steps:
            return
        figures = torch.stack([torch.stack([step.loss, step.grad_norm]) for step in steps]).tolist()
        for step, (loss, norm) in zip(steps, figures, strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise CheckFailedError(self._divergence(step, loss, norm))
            self._part.append((loss, norm))

    def _divergence(self, step: TrainStep, loss: float, norm: float) -> str:
        saved = self.num_images_saved
        last = "there is no checkpoint" if saved is None else f"the last good checkpoint: {saved}"
        return (
            f"training diverged after {step.num_images} images: loss {loss}, gradient norm {norm}, "
            f"learning rate {step.learning_rate:.3g}; {last}. Try a lower train.learning_rate"
        )

    def note_held_out(self, error: HeldOutError, figures: Mapping[str, float]) -> None:
        """Add a measurement on held-out images."""
        self.held_out_errors.append(error)
        self.held_out_rows.append([self.training.num_images, *(figures[name] for name in self.phase.held_out)])

    @property
    def stopped(self) -> bool:
        """Whether over-fitting has ended the training."""
        return self.training.params.stop_when_overfitting and is_overfitting(self.held_out_errors)

    def is_time_to_save(self) -> bool:
        return time.monotonic() - self._saved_at > self.checkpoint_interval_sec

    def save(self) -> None:
        """Write a checkpoint.

        Raises:
            CheckFailedError: as for `collect`; nothing is written.
        """
        self.collect()
        notes = {
            "rows": self.rows,
            "stretch": self._part,
            "held_out_rows": self.held_out_rows,
            "held_out_errors": [(error.step, error.by_image.tolist()) for error in self.held_out_errors],
            "run_id": self.run_id,
            "length": self._length,
            "seconds": self.seconds,
        }
        state = checkpoint.Checkpoint(self.training.num_images, self.training.state(), notes)
        checkpoint.save(self.store, state)
        self.num_images_saved, self._saved_at = state.num_images, time.monotonic()

    def keep_grid(self, grid: Image) -> Path:
        """Save a sample grid under the number of images seen."""
        path = self.store / GRIDS / f"{self.training.num_images:09d}.png"
        with naming(path):
            path.parent.mkdir(exist_ok=True)
        with replacing(path) as temporary:
            grid.save(temporary, format="png")
        return path

    def show(self, out: Path) -> None:
        """Write the curves and grids so far into the model folder, where DVC's extension for VS Code watches them grow."""
        if time.monotonic() - self._shown_at > SHOW_INTERVAL_SEC:
            self._write_plots(out)
            self._shown_at = time.monotonic()

    def write(self, out: Path) -> None:
        """Write curves.csv, held_out.csv and the grids of a finished training into the model folder."""
        self._write_plots(out)
        checkpoint.finish(self.store)

    def _write_plots(self, out: Path) -> None:
        with naming(out / GRIDS):
            (out / GRIDS).mkdir(parents=True, exist_ok=True)
        _write_table(out / "curves.csv", COLUMNS, self.rows)
        _write_table(out / "held_out.csv", HELD_OUT_COLUMNS, self.held_out_rows)
        with naming(out / GRIDS):
            for path in sorted((self.store / GRIDS).glob("*.png")):
                if int(path.stem) <= self.training.num_images:
                    shutil.copyfile(path, out / GRIDS / path.name)

    @property
    def _length(self) -> int:
        """Images of the whole training."""
        return self.training.num_steps * self.training.params.batch_size


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[float]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])
