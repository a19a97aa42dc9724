"""Stage `train`: train the network to predict the clean image from the noisy one.

Reads: data/prepared, data/schedule
Writes: data/model (docs/contracts.md lists it file by file)
Params: train

The next run resumes a killed training, bit-exactly on a CPU: see `pipeline.training.journal`. Training uses one process
per core or GPU (`NPROC` overrides), started here or by torchrun: see `pipeline.training.distributed`.
"""

import signal
import sys
from collections import deque
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

from pipeline.artefacts.dataset import Dataset
from pipeline.artefacts.files import read_document
from pipeline.artefacts.model import DEFAULT_SAMPLING, SNAPSHOTS, DataSpec, Description, build_network, save_model
from pipeline.artefacts.schedule_table import ScheduleTable, read_schedule_table
from pipeline.artefacts.tensors import save_tensors
from pipeline.device import best_device
from pipeline.diffusion.target import check_target
from pipeline.errors import ArtefactError, FoundryError
from pipeline.params import Params, load_params
from pipeline.progress import progress_bar
from pipeline.tracking import runs
from pipeline.tracking.runs import StageRun
from pipeline.training import checkpoint
from pipeline.training.cost import require_memory
from pipeline.training.distributed import Workers, launch_workers
from pipeline.training.fingerprint import provenance, training_key
from pipeline.training.journal import GRIDS, Journal
from pipeline.training.loop import Training, check_finite
from pipeline.training.overfitting import best, is_overfitting
from pipeline.training.preview import Preview, grid_steps


def main(prepared: Path, schedule: Path, out: Path, checkpoint_interval_sec: float) -> None:

    params, dataset = load_params(), Dataset.open(prepared)
    with launch_workers(params.train.batch_size) as workers:
        if workers.is_first:
            train(params, dataset, schedule, out, checkpoint_interval_sec=checkpoint_interval_sec, workers=workers)
        else:
            follow(params, dataset, schedule, workers)


def train(
    params: Params, dataset: Dataset, schedule: Path, out: Path, *, checkpoint_interval_sec: float, workers: Workers
) -> None:
    """Train to the end, from the last checkpoint if there is one, and write the model folder `out`."""
    description, training = _prepare(params, dataset, schedule, workers)
    store = store_of(description, training)
    with checkpoint.exclusive(store):
        journal = Journal(store, training, checkpoint_interval_sec=checkpoint_interval_sec)
        journal.resume()
        training.sync_from_first()
        _report_start(journal, out)
        settings = params.model_dump(mode="json", by_alias=True)
        with runs.stage_run("train", params=settings, resume_run_id=journal.run_id) as run:
            journal.run_id = run.run_id
            run.tags({"device": training.device.name, **training.arithmetic})
            _train_to_the_end(training, journal, Preview(training, description, dataset.split("held_out")), run, out)
            _write(out, training, journal, description, run)


def follow(params: Params, dataset: Dataset, schedule: Path, workers: Workers) -> None:
    """Compute this process's share of every step, until the end or until the first process ends."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    _, training = _prepare(params, dataset, schedule, workers)
    with suppress(FoundryError):
        training.sync_from_first()
        deque(training.steps(), maxlen=0)


def _prepare(params: Params, dataset: Dataset, schedule: Path, workers: Workers) -> tuple[Description, Training]:

    schedule_table = read_schedule_table(schedule / "table.parquet")
    check_target(params.train.target, schedule_table.schedule)
    description = describe(params, dataset, schedule_table, schedule)
    network, device = build_network(description, seed=params.train.seed), best_device()
    if workers.is_first and device.device.type == "cpu":
        info = dataset.info
        require_memory(params.train, image_size=info.image_size, channels=info.channels, num_classes=info.num_classes)
    return description, Training(params.train, network, schedule_table, dataset.split("train"), device, workers)


def describe(params: Params, dataset: Dataset, schedule_table: ScheduleTable, schedule: Path) -> Description:
    """The content of model.json."""
    statistics, timetables = (read_document(schedule / name) for name in ("statistics.json", "timetables.json"))
    if "schedule/sigma_data" not in statistics:
        raise ArtefactError(f"{schedule / 'statistics.json'}: schedule/sigma_data is missing")
    num_steps = min(DEFAULT_SAMPLING.num_steps, schedule_table.schedule.num_timesteps)
    return Description(
        data=DataSpec(
            image_size=dataset.info.image_size,
            channels=dataset.info.channels,
            class_names=dataset.info.class_names,
            sigma_data=statistics["schedule/sigma_data"],
        ),
        network=params.train.network,
        target=params.train.target,
        sampling=replace(DEFAULT_SAMPLING, num_steps=num_steps),
        timetables=timetables,
        provenance=provenance(params.train, dataset, schedule_table),
    )


def store_of(description: Description, training: Training) -> Path:
    """The folder with the checkpoints of this training and no other."""
    key = training_key({**description.provenance, **training.arithmetic})
    return runs.main_worktree() / ".foundry" / "training" / key


def _report_start(journal: Journal, out: Path) -> None:
    for line in journal.damaged:
        sys.stderr.write(f"warning: {line}; the checkpoint before is used\n")
    if journal.num_images_saved is not None:
        sys.stderr.write(f"resuming after {journal.num_images_saved} images\n")
    if journal.training.params.num_grids:
        sys.stderr.write(f"samples of the network as it learns: {out / GRIDS}, the first after 1 %\n")


def _train_to_the_end(training: Training, journal: Journal, preview: Preview, run: StageRun, out: Path) -> None:

    signals = _Signals()
    batch_size = training.params.batch_size
    total = training.num_steps * batch_size
    grids_after = grid_steps(training.num_steps, training.params.num_grids)
    with progress_bar(name="train", unit="images", total=total, done=training.num_images) as bar:
        # A finished training that over-fitting had stopped is only written again.
        for step in () if journal.stopped else training.steps():
            check_finite(step, journal.num_images_saved)
            row = journal.note(step)
            bar.update(batch_size)
            if row is not None:
                run.metrics(row, step=step.num_images)
                bar.set_postfix(loss=f"{row['train/loss']:.4f}", refresh=False)
            if training.step in grids_after:
                run.image("train/grid", journal.keep_grid(preview.grid()), step=step.num_images)
            if training.completed_fraction_boundary(training.params.num_snapshots):
                error, figures = preview.held_out_errors()
                journal.note_held_out(error, figures)
                run.metrics(figures, step=step.num_images)
            if row is not None:
                journal.show(out)
            if signals.received or journal.is_time_to_save():
                journal.save()
            signals.exit_if_received(training.num_images)
            if journal.stopped:
                break
    journal.save()
    _report_overfitting(training, journal, run)


def _report_overfitting(training: Training, journal: Journal, run: StageRun) -> None:
    if not is_overfitting(journal.held_out_errors):
        return
    least, last = best(journal.held_out_errors), journal.held_out_errors[-1]
    num_images = least.step * training.params.batch_size
    run.tags({"overfitting": f"after {num_images} images"})
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


def _write(out: Path, training: Training, journal: Journal, description: Description, run: StageRun) -> None:

    end = best(journal.held_out_errors).step if journal.stopped else training.num_steps
    weights, snapshots = training.averages_at(end)
    digest = save_model(out, description, weights=weights, schedule=training.schedule_table.schedule)
    save_tensors(out / SNAPSHOTS, snapshots)
    journal.write(out)
    run.model(digest)
    run.metrics({"train/seconds": journal.seconds})
    for name in ("curves.csv", "held_out.csv"):
        run.artifact(out / name)


if __name__ == "__main__":
    from pipeline import cli

    cli.main(["train", *sys.argv[1:]])
