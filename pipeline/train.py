"""Stage `train`: the network learns to predict the clean image from the noisy one.

Reads: data/prepared, data/schedule
Writes: data/model (docs/contracts.md lists it file by file)
Params: train

A killed training goes on where it stopped with the next run, bit-exactly on a CPU: see `pipeline.journal`.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import command

if TYPE_CHECKING:
    from types import FrameType

    from PIL.Image import Image

    from pipeline.diffusion.artefact import Description, Model
    from pipeline.journal import Journal
    from pipeline.params import Params
    from pipeline.prepared import PreparedSet
    from pipeline.table import Table
    from pipeline.tracking import StageRun
    from pipeline.training import Training

GRID_COLUMNS = 8


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.train", description=__doc__.splitlines()[0])
    parser.add_argument("--prepared", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--schedule", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--checkpoint-interval-sec", type=float, default=30.0, help="default: 30")
    arguments = parser.parse_args()

    from pipeline.params import load_params
    from pipeline.prepared import PreparedSet

    train(
        load_params(),
        PreparedSet.open(arguments.prepared),
        arguments.schedule,
        arguments.out,
        checkpoint_interval_sec=arguments.checkpoint_interval_sec,
    )


def train(params: Params, prepared: PreparedSet, schedule: Path, out: Path, *, checkpoint_interval_sec: float) -> None:
    """Train to the end, from the last checkpoint where there is one, and write the model folder."""
    from pipeline import checkpoint, tracking
    from pipeline.device import best_device
    from pipeline.diffusion.artefact import build_network
    from pipeline.diffusion.target import check_target
    from pipeline.identity import training_key
    from pipeline.journal import Journal
    from pipeline.table import read_table
    from pipeline.training import Training

    table = read_table(schedule / "table.parquet")
    check_target(params.train.target, table.schedule)
    description = describe(params, prepared, table, schedule)
    store = tracking.main_worktree() / ".foundry" / "training" / training_key(description.provenance)
    with checkpoint.exclusive(store):
        network = build_network(description, seed=params.train.seed)
        training = Training(params.train, network, table, prepared.split("train"), best_device())
        journal = Journal(store, training, checkpoint_interval_sec=checkpoint_interval_sec)
        journal.resume()
        _say_where_it_starts(journal)
        settings = params.model_dump(mode="json", by_alias=True)
        with tracking.stage_run("train", params=settings, resume_run_id=journal.run_id) as run:
            journal.run_id = run.run_id
            _train_to_the_end(training, journal, description, run)
            _write(out, training, journal, description, run)


def describe(params: Params, prepared: PreparedSet, table: Table, schedule: Path) -> Description:
    """What model.json will say of the model."""
    from pipeline.diffusion.artefact import DEFAULT_SAMPLING, DataSpec, Description
    from pipeline.identity import provenance

    statistics = json.loads((schedule / "statistics.json").read_text(encoding="utf-8"))
    timetables = json.loads((schedule / "timetables.json").read_text(encoding="utf-8"))
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


def _say_where_it_starts(journal: Journal) -> None:
    for line in journal.damaged:
        sys.stderr.write(f"warning: {line}; the checkpoint before is used\n")
    if journal.num_images_saved is not None:
        sys.stderr.write(f"going on after {journal.num_images_saved} images\n")


def _train_to_the_end(training: Training, journal: Journal, description: Description, run: StageRun) -> None:
    from tqdm import tqdm

    from pipeline.training import check_finite

    signals = _Signals()
    batch_size, num_grids = training.params.batch_size, training.params.num_grids
    total = training.num_steps * batch_size
    with tqdm(total=total, initial=training.num_images, unit=" images", desc="train", mininterval=0.5) as bar:
        for step in training.steps():
            check_finite(step, journal.num_images_saved)
            row = journal.note(step)
            bar.update(batch_size)
            if row is not None:
                run.metrics(row, step=step.num_images)
                bar.set_postfix(loss=f"{row['train/loss']:.4f}", refresh=False)
            if training.has_just_done_one_of(num_grids):
                path = journal.keep_grid(_grid(training, description))
                run.image("train/grid", path, step=step.num_images)
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


def _averaged(training: Training, description: Description) -> Model:
    """The model as it would be sampled now: the first EMA track."""
    from pipeline.diffusion.artefact import Model, build_network

    network = build_network(description, seed=0)
    network.load_state_dict(training.ema.tracks[0])
    network.to(training.device.device).eval().requires_grad_(requires_grad=False)
    return Model(description, network, training.table.schedule, digest="")


def _grid(training: Training, description: Description) -> Image:
    """The same few images of every class, from the same noise each time."""
    from pipeline.diffusion.seeds import image_seed
    from pipeline.drawing import draw, grid_image

    num_rows = max(1, description.data.num_classes)
    seeds = [image_seed(training.params.seed, i) for i in range(num_rows * GRID_COLUMNS)]
    labels = [row for row in range(num_rows) for _ in range(GRID_COLUMNS)] if description.data.num_classes else None
    images = draw(_averaged(training, description), seeds, labels)
    return grid_image(images, columns=GRID_COLUMNS)


def _write(out: Path, training: Training, journal: Journal, description: Description, run: StageRun) -> None:
    from pipeline.diffusion.artefact import SNAPSHOTS, save_model
    from pipeline.diffusion.tensors import save_tensors

    weights = training.ema.tracks[0]
    digest = save_model(out, description, weights=weights, schedule=training.table.schedule)
    save_tensors(out / SNAPSHOTS, training.snapshots)
    journal.write(out)
    run.tags({"model.digest": digest})
    run.artifact(out / "curves.csv")


if __name__ == "__main__":
    command.run(main)
