"""Stage `train`: train the network to predict the clean image from the noisy one.

Reads: data/prepared, data/schedule, data/ancestor
Writes: data/model (docs/contracts.md lists it file by file)
Params: train, ancestor, distil

With `ancestor.digest` the network starts from the weights of a registered model: see `pipeline.training.ancestor`. With
`distil.steps` the trained model is replaced by its student at the end: see `pipeline.distil`. After a kill the next run
resumes, bit-exactly on a CPU: see `pipeline.training.journal`. Training uses one process per core or GPU (`NPROC`
overrides), started here or by torchrun: see `pipeline.training.distributed`.
"""

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from pipeline.artefacts.dataset import Dataset
from pipeline.artefacts.files import read_document
from pipeline.artefacts.model import SNAPSHOTS, DataSpec, Description, parse_timetables, save_model
from pipeline.artefacts.sampling_defaults import DEFAULT_SAMPLING
from pipeline.artefacts.schedule_table import ScheduleTable, read_schedule_table
from pipeline.artefacts.tensors import save_tensors
from pipeline.device import best_device
from pipeline.diffusion.target import check_target
from pipeline.errors import ArtefactError
from pipeline.params import Params, load_params
from pipeline.tracking import runs, stage_times
from pipeline.tracking.runs import StageRun
from pipeline.tracking.tags import ANCESTOR_TAG
from pipeline.training import checkpoint
from pipeline.training.ancestor import MODEL, descendant, load_ancestor
from pipeline.training.cost import require_memory
from pipeline.training.course import follow, ignore_signals, report_start, train_to_the_end
from pipeline.training.distributed import Workers, launch_workers
from pipeline.training.fingerprint import provenance, training_key
from pipeline.training.initial_network import initial_network
from pipeline.training.journal import Journal
from pipeline.training.loop import Training
from pipeline.training.overfitting import best
from pipeline.training.preview import Preview


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that a training reads."""

    params: Params
    dataset: Dataset
    schedule: Path
    ancestor: Path
    """Model folder of the ancestor; read only if `params.ancestor.digest` is set."""


def main(prepared: Path, schedule: Path, ancestor: Path, out: Path, checkpoint_interval_sec: float) -> None:
    """Run the stage."""
    params = load_params()
    inputs = Inputs(params, Dataset.open(prepared), schedule, ancestor / MODEL)
    with launch_workers(params.train.batch_size, params.train.micro_batch_size) as workers:
        if workers.is_first:
            journal = train(inputs, out, checkpoint_interval_sec=checkpoint_interval_sec, workers=workers)
        else:
            ignore_signals()
            follow(_prepare(inputs, workers)[1])
            journal = None
    if params.distil.steps is not None:
        _distil(prepared, schedule, out, checkpoint_interval_sec, journal)


def _distil(
    prepared: Path, schedule: Path, out: Path, checkpoint_interval_sec: float, journal: Journal | None
) -> NoReturn:
    """Replace this process by `pipeline.distil`, which starts workers of its own and then receives this process's signals."""
    options = {
        "--model": out,
        "--prepared": prepared,
        "--schedule": schedule,
        "--checkpoint-interval-sec": checkpoint_interval_sec,
    } | ({"--run-id": journal.run_id, "--seconds-before": journal.seconds_before} if journal else {})
    words = [str(word) for each in options.items() for word in each]
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "pipeline.distil", *words])  # noqa: S606  # our own module


def train(inputs: Inputs, out: Path, *, checkpoint_interval_sec: float, workers: Workers) -> Journal:
    """Train to the end, from the last checkpoint if there is one, and write the model folder `out`; returns the journal."""
    params, dataset = inputs.params, inputs.dataset
    description, training = _prepare(inputs, workers)
    store = store_of(description, training)
    with checkpoint.exclusive(store):
        journal = Journal(store, training, checkpoint_interval_sec=checkpoint_interval_sec)
        journal.resume()
        training.sync_from_first()
        report_start(journal, out)
        settings = params.model_dump(mode="json", by_alias=True)
        # A finished training whose model is distilled again is logged in a new run, that of the new pipeline.
        is_new = params.distil.steps is not None and training.step == training.num_steps
        with runs.stage_run("train", params=settings, resume_run_id=None if is_new else journal.run_id) as run:
            journal.run_id = run.run_id
            run.tags({"device": training.device.name, **training.arithmetic})
            if ancestor := params.ancestor.digest:
                run.tags({ANCESTOR_TAG: ancestor})
            preview = Preview(training, description, dataset.split("held_out"))
            with run.watching_machine():
                train_to_the_end(training, journal, preview, run, out)
            _write(out, training, journal, description, run)
    stage_times.remember("train", journal.seconds_before)
    return journal


def _prepare(inputs: Inputs, workers: Workers) -> tuple[Description, Training]:
    """Build the content of model.json and the training before its first step."""
    params, dataset, settings = inputs.params, inputs.dataset, inputs.params.training
    schedule_table = read_schedule_table(inputs.schedule / "table.parquet")
    check_target(settings.target, schedule_table.schedule)
    description = describe(params, dataset, schedule_table, inputs.schedule)
    split, device = dataset.split("train"), best_device()
    if digest := params.ancestor.digest:
        network = descendant(description, schedule_table.schedule, load_ancestor(inputs.ancestor, digest))
    else:
        network = initial_network(description, split, schedule_table.schedule, seed=settings.seed)
    if workers.is_first and device.device.type == "cpu":
        info = dataset.info
        require_memory(
            settings,
            params.distil,
            image_size=info.image_size,
            channels=info.channels,
            num_classes=info.num_classes,
        )
    return description, Training(settings, network, schedule_table, split, device, workers)


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
        timetables=parse_timetables(timetables),
        provenance=provenance(params.training, dataset, schedule_table, params.ancestor.digest),
    )


def store_of(description: Description, training: Training) -> Path:
    """The folder with the checkpoints of this training and no other."""
    key = training_key({**description.provenance, **training.arithmetic})
    return runs.main_worktree() / ".foundry" / "training" / key


def _write(out: Path, training: Training, journal: Journal, description: Description, run: StageRun) -> None:
    """Write the model folder: after over-fitting with the weights of the best snapshot, else with the last ones."""
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
