"""Stage `train`: the network learns to predict the clean image from the noisy one.

Reads: data/prepared, data/schedule
Writes: data/model (docs/contracts.md lists it file by file)
Params: train

A killed training goes on where it stopped with the next run, bit-exactly on a CPU: see `pipeline.training.journal`. It runs in
one process a core or card (`NPROC` overrides), by itself or under torchrun: see `pipeline.training.distributed`.
"""

from __future__ import annotations

import signal
import sys
from collections import deque
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from pipeline.artefacts.dataset import Dataset
from pipeline.artefacts.files import read_document
from pipeline.artefacts.model import DEFAULT_SAMPLING, SNAPSHOTS, DataSpec, Description, build_network, save_model
from pipeline.artefacts.schedule_table import ScheduleTable, read_schedule_table
from pipeline.artefacts.tensors import save_tensors
from pipeline.device import best_device
from pipeline.diffusion.target import check_target
from pipeline.errors import ArtefactError, FoundryError
from pipeline.params import Params, load_params
from pipeline.tracking import runs
from pipeline.tracking.runs import StageRun
from pipeline.training import checkpoint
from pipeline.training.distributed import Workers, assembled
from pipeline.training.fingerprint import provenance, training_key
from pipeline.training.journal import Journal
from pipeline.training.loop import Training, check_finite
from pipeline.training.preview import Preview


def main(prepared: Path, schedule: Path, out: Path, checkpoint_interval_sec: float) -> None:

    params, dataset = load_params(), Dataset.open(prepared)
    with assembled(params.train.batch_size) as workers:
        if workers.is_first:
            train(params, dataset, schedule, out, checkpoint_interval_sec=checkpoint_interval_sec, workers=workers)
        else:
            follow(params, dataset, schedule, workers)


def train(
    params: Params, prepared: Dataset, schedule: Path, out: Path, *, checkpoint_interval_sec: float, workers: Workers
) -> None:
    """Train to the end, from the last checkpoint where there is one, and write the model folder."""
    description, training = _start(params, prepared, schedule, workers)
    store = store_of(description, training)
    with checkpoint.exclusive(store):
        journal = Journal(store, training, checkpoint_interval_sec=checkpoint_interval_sec)
        journal.resume()
        training.meet()
        _say_where_it_starts(journal)
        settings = params.model_dump(mode="json", by_alias=True)
        with runs.stage_run("train", params=settings, resume_run_id=journal.run_id) as run:
            journal.run_id = run.run_id
            run.tags({"device": training.device.name, **training.arithmetic})
            _train_to_the_end(training, journal, Preview(training, description, prepared.split("held_out")), run)
            _write(out, training, journal, description, run)


def follow(params: Params, prepared: Dataset, schedule: Path, workers: Workers) -> None:
    """Do this process's share of every step, until the end or until the first process ends."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    _, training = _start(params, prepared, schedule, workers)
    with suppress(FoundryError):
        training.meet()
        deque(training.steps(), maxlen=0)


def _start(params: Params, prepared: Dataset, schedule: Path, workers: Workers) -> tuple[Description, Training]:

    table = read_schedule_table(schedule / "table.parquet")
    check_target(params.train.target, table.schedule)
    description = describe(params, prepared, table, schedule)
    network = build_network(description, seed=params.train.seed)
    return description, Training(params.train, network, table, prepared.split("train"), best_device(), workers)


def describe(params: Params, prepared: Dataset, table: ScheduleTable, schedule: Path) -> Description:
    """What model.json will say of the model."""
    statistics, timetables = (read_document(schedule / name) for name in ("statistics.json", "timetables.json"))
    if "schedule/sigma_data" not in statistics:
        raise ArtefactError(f"{schedule / 'statistics.json'}: schedule/sigma_data is missing")
    return Description(
        data=DataSpec(
            image_size=prepared.info.image_size,
            channels=prepared.info.channels,
            class_names=prepared.info.class_names,
            sigma_data=statistics["schedule/sigma_data"],
        ),
        network=params.train.network,
        target=params.train.target,
        sampling=replace(DEFAULT_SAMPLING, num_steps=min(DEFAULT_SAMPLING.num_steps, table.schedule.num_timesteps)),
        timetables=timetables,
        provenance=provenance(params.train, prepared, table),
    )


def store_of(description: Description, training: Training) -> Path:
    """Where a training keeps its checkpoints: no other one goes on from them."""
    key = training_key({**description.provenance, **training.arithmetic})
    return runs.main_worktree() / ".foundry" / "training" / key


def _say_where_it_starts(journal: Journal) -> None:
    for line in journal.damaged:
        sys.stderr.write(f"warning: {line}; the checkpoint before is used\n")
    if journal.num_images_saved is not None:
        sys.stderr.write(f"going on after {journal.num_images_saved} images\n")


def _train_to_the_end(training: Training, journal: Journal, look: Preview, run: StageRun) -> None:

    signals = _Signals()
    batch_size, num_looks = training.params.batch_size, training.params.num_grids
    total = training.num_steps * batch_size
    with tqdm(total=total, initial=training.num_images, unit=" images", desc="train", mininterval=0.5) as bar:
        for step in training.steps():
            check_finite(step, journal.num_images_saved)
            row = journal.note(step)
            bar.update(batch_size)
            if row is not None:
                run.metrics(row, step=step.num_images)
                bar.set_postfix(loss=f"{row['train/loss']:.4f}", refresh=False)
            if training.has_just_done_one_of(num_looks):
                run.image("train/grid", journal.keep_grid(look.grid()), step=step.num_images)
                run.metrics(look.held_out_losses(), step=step.num_images)
            if signals.received or journal.is_time_to_save():
                journal.save()
            signals.leave(training.num_images)
    journal.save()


class _Signals:
    """SIGTERM and SIGINT let the present step end and its state be saved."""

    received: int | None = None

    def __init__(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.received = number

    def leave(self, num_images: int) -> None:
        if self.received is None:
            return
        name = signal.Signals(self.received).name
        sys.stderr.write(f"\nstopped by {name} after {num_images} images; the next run goes on from there\n")
        sys.exit(128 + self.received)


def _write(out: Path, training: Training, journal: Journal, description: Description, run: StageRun) -> None:

    weights = training.ema.tracks[0]
    digest = save_model(out, description, weights=weights, schedule=training.table.schedule)
    save_tensors(out / SNAPSHOTS, training.snapshots)
    journal.write(out)
    run.tags({"model.digest": digest})
    run.metrics({"train/seconds": journal.seconds})
    run.artifact(out / "curves.csv")


if __name__ == "__main__":
    from pipeline import cli

    cli.main(["train", *sys.argv[1:]])
