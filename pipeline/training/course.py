"""A training from its last checkpoint to its end, logged and saved on the way."""

import signal
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Protocol

from PIL.Image import Image

from pipeline.errors import FoundryError
from pipeline.progress import progress_bar
from pipeline.training.journal import GRIDS, Journal
from pipeline.training.loop import Training
from pipeline.training.overfitting import HeldOutError, best, is_overfitting
from pipeline.training.preview import grid_steps


class Log(Protocol):
    """Where a training reports to: the stage's MLflow run."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None: ...
    def tags(self, values: Mapping[str, str]) -> None: ...
    def image(self, key: str, image: Path, step: int = 0) -> None: ...


class Previews(Protocol):
    """Previews of the model while the training runs."""

    def grid(self) -> Image: ...
    def held_out_errors(self) -> tuple[HeldOutError, dict[str, float]]: ...


def report_start(journal: Journal, out: Path | None) -> None:
    """Print what the training resumes from, and where its sample grids will appear in the folder `out`, if there is one."""
    for line in journal.damaged:
        sys.stderr.write(f"warning: {line}; the checkpoint before is used\n")
    if journal.num_images_saved is not None:
        sys.stderr.write(f"resuming after {journal.num_images_saved} images\n")
    if journal.training.params.num_grids and out is not None:
        sys.stderr.write(f"samples of the network as it learns: {out / GRIDS}, the first before it learns\n")


def train_to_the_end(training: Training, journal: Journal, previews: Previews, log: Log, out: Path | None) -> None:
    """Train until the end or a signal; the curves grow in the folder `out`, if there is one.

    Raises:
        CheckFailedError: the training diverges.
    """
    signals = _Signals()
    batch_size, phase = training.params.batch_size, journal.phase.name
    total = training.num_steps * batch_size
    grids_after = grid_steps(training.num_steps, training.params.num_grids)
    if training.step == 0 and grids_after:
        # MLflow's image cards open at step 0.
        log.image(f"{phase}/grid", journal.keep_grid(previews.grid()))
    with progress_bar(name=phase, unit="images", total=total, done=training.num_images) as bar:
        # A finished training that over-fitting had stopped is only written again.
        for step in () if journal.stopped else training.steps():
            row = journal.note(step)
            bar.update(batch_size)
            if row is not None:
                log.metrics(row, step=step.num_images)
                bar.set_postfix(loss=f"{row[f'{phase}/loss']:.4f}", refresh=False)
            is_snapshot = training.completed_fraction_boundary(training.params.num_snapshots)
            if is_snapshot or training.step in grids_after:
                journal.collect()
            if training.step in grids_after:
                log.image(f"{phase}/grid", journal.keep_grid(previews.grid()), step=step.num_images)
            if is_snapshot:
                error, figures = previews.held_out_errors()
                journal.note_held_out(error, figures)
                log.metrics(figures, step=step.num_images)
            if row is not None and out is not None:
                journal.show(out)
            if signals.received or journal.is_time_to_save():
                journal.save()
            signals.exit_if_received(training.num_images)
            if journal.stopped:
                break
    journal.save()
    _report_overfitting(training, journal, log)


def follow(training: Training) -> None:
    """Compute this process's share of every step, until the end or until the first process ends."""
    with suppress(FoundryError):
        training.sync_from_first()
        deque(training.steps(), maxlen=0)


def ignore_signals() -> None:
    """Leave SIGTERM and SIGINT, which a terminal sends to all processes, to the first process."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _report_overfitting(training: Training, journal: Journal, log: Log) -> None:
    if not is_overfitting(journal.held_out_errors):
        return
    least, last = best(journal.held_out_errors), journal.held_out_errors[-1]
    num_images = least.step * training.params.batch_size
    log.tags({"overfitting": f"after {num_images} images"})
    outcome = (
        f"stopped; the model has the weights after {num_images}"
        if journal.stopped
        else "the model has the last weights; train.stop_when_overfitting=true keeps those with the least error"
    )
    sys.stderr.write(
        f"over-fitting: the error on held-out images, relative to the best linear denoiser's, was least after {num_images} "
        f"images ({least.mean:.3f}) and is now {last.mean:.3f}; {outcome}. More images, train.augmentation and "
        "train.network.dropout help\n"
    )


class _Signals:
    """Delays SIGTERM and SIGINT until the current step has ended and its state is saved."""

    received: int | None = None

    def __init__(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.received = number

    def exit_if_received(self, num_images: int) -> None:
        if self.received is None:
            return
        name = signal.Signals(self.received).name
        sys.stderr.write(f"\nstopped by {name} after {num_images} images; the next run resumes from there\n")
        sys.exit(128 + self.received)
