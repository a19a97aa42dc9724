"""The end of stage `train`, if `distil.steps` is set: a student takes the place of the trained model.

Reads: data/model, data/prepared, data/schedule
Writes: data/model/{model.safetensors,model.json,snapshots.safetensors}
Params: distil, train

The student has the trained model's architecture and starts from its weights. It learns to draw the same images from the
same seeds in 1, 2 or 4 steps without guidance (pipeline/training/trajectories.py), in the same loop and with the same
checkpoints as a training. `pipeline.train` executes this module in its own place when the training has ended.
"""

import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from pipeline.artefacts.dataset import Dataset
from pipeline.artefacts.files import canonical_json, parts_digest
from pipeline.artefacts.model import SNAPSHOTS, TEACHER, Description, Model, build_network, load_model, save_model
from pipeline.artefacts.sampling_defaults import SamplingDefaults
from pipeline.artefacts.schedule_table import ScheduleTable, read_schedule_table
from pipeline.artefacts.tensors import save_tensors
from pipeline.device import best_device
from pipeline.diffusion.unet import UNet
from pipeline.errors import FoundryError
from pipeline.params import DistilParams, Params, TrainParams, load_params
from pipeline.tracking import runs, stage_times
from pipeline.training import checkpoint
from pipeline.training.course import follow, ignore_signals, report_start, train_to_the_end
from pipeline.training.distributed import Workers, launch_workers
from pipeline.training.feature_error import FeatureError
from pipeline.training.fingerprint import code_digest, training_key
from pipeline.training.journal import Journal, Phase
from pipeline.training.loop import Training
from pipeline.training.preview import StudentPreview
from pipeline.training.trajectories import Teacher, Trajectories

DISTIL = Phase("distil", ("distil/rms_to_teacher",))


def main(
    model: Path,
    prepared: Path,
    schedule: Path,
    checkpoint_interval_sec: float,
    run_id: str | None,
    seconds_before: float,
) -> None:
    """Replace the model in a folder by its student.

    Args:
        model: the folder.
        prepared: data/prepared.
        schedule: data/schedule.
        checkpoint_interval_sec: least time between two checkpoints.
        run_id: MLflow run of the training, which this one continues; None starts a new run.
        seconds_before: duration of the training before.
    """
    params, dataset, trained = load_params(), Dataset.open(prepared), load_model(model)
    if trained.description.is_distilled:
        raise FoundryError(
            f"{model}: is distilled already; `foundry train` writes the model that it was distilled from"
        )
    table = read_schedule_table(schedule / "table.parquet")
    with launch_workers(params.train.batch_size, params.train.micro_batch_size) as workers:
        distillation = Distillation(params, trained, dataset, table, workers)
        if workers.is_first:
            journal = distil(
                distillation, params, model, checkpoint_interval_sec=checkpoint_interval_sec, run_id=run_id
            )
            stage_times.remember("train", seconds_before + journal.seconds_before)
        else:
            ignore_signals()
            follow(distillation.training)


class Distillation:
    """A student, its teacher, and the training of the student."""

    def __init__(
        self,
        params: Params,
        trained: Model,
        dataset: Dataset,
        table: ScheduleTable,
        workers: Workers,
        *,
        source: type[Trajectories] = Trajectories,
    ) -> None:
        """Prepare the first step.

        Args:
            params: the sections `train` and `distil`.
            trained: the teacher, whose weights the student starts from.
            dataset: its training images give the trajectories their classes.
            table: the noise levels.
            workers: the place of this process among those that share each batch.
            source: the kind of batches.
        """
        device, settings = best_device(), student_params(params.train, params.distil)
        student, images = student_network(trained), dataset.split("train")
        self.params, self.trained = params.distil, trained
        self.teacher = drawing_teacher(trained, params.distil, device.device)
        batches = source(
            self.teacher,
            student,
            images.labels,
            seed=settings.seed,
            batch_size=settings.batch_size,
            label_dropout=settings.label_dropout,
            micro_batch_size=settings.micro_batch_size,
            workers=workers,
        )
        error = FeatureError(trained, params.distil.feature_weight, device.device)
        self.training = Training(settings, student, table, images, device, workers, batches=batches, row_error=error)

    @property
    def description(self) -> Description:
        """The content of the student's model.json."""
        found, plan, teacher = self.trained.description, self.teacher.student_plan, self.teacher
        sampling = SamplingDefaults(sampler="ddim", num_steps=plan.num_steps, guidance_scale=1.0)
        of_teacher = SamplingDefaults(
            sampler="dpmpp_2m",
            num_steps=teacher.num_steps,
            guidance_scale=teacher.guidance_scale,
            guidance_interval=teacher.guidance_interval,
        )
        return replace(
            found,
            sampling=sampling,
            timetables={sampling.sampler: {str(plan.num_steps): tuple(plan.times.tolist())}},
            provenance={**found.provenance, "teacher": {"digest": self.trained.digest, **asdict(of_teacher)}},
        )

    @property
    def store(self) -> Path:
        """The folder with the checkpoints of this distillation and no other."""
        facts = {
            "code_digest": code_digest("training/trajectories", "training/feature_error"),
            "params_digest": parts_digest([canonical_json(self.params.model_dump(mode="json"))]),
            "settings_digest": parts_digest([canonical_json(self.training.params.model_dump(mode="json"))]),
            "teacher_digest": self.trained.digest,
        }
        key = training_key({**self.trained.description.provenance, **facts, **self.training.arithmetic})
        return runs.main_worktree() / ".foundry" / "training" / key


def student_params(train: TrainParams, distil: DistilParams) -> TrainParams:
    """The settings of the student's training: those of `train` with the overrides of `distil`, and no augmentation."""
    return train.model_copy(
        update={
            "num_images": distil.num_images,
            "learning_rate": train.learning_rate * distil.learning_rate_ratio,
            "adam_learning_rate": train.adam_learning_rate * distil.learning_rate_ratio,
            "weighting": "uniform",
            "horizontal_flip": False,
            "augmentation": replace(train.augmentation, kinds=()),
            "stop_when_overfitting": False,
            "num_grids": 1,
        }
    )


def drawing_teacher(trained: Model, params: DistilParams, device: torch.device) -> Teacher:
    """The trained model as the teacher of a student with `params.steps` steps.

    Raises:
        FoundryError: `params.steps` is None.
    """
    if params.steps is None:
        raise FoundryError("distil.steps: should be 1, 2 or 4 to distil (got null)")
    return Teacher(
        model=trained,
        num_steps=params.teacher_steps,
        guidance_scale=params.guidance_scale if trained.null_label else 1.0,
        guidance_interval=params.guidance_interval,
        student_steps=params.steps,
        device=device,
    )


def student_network(trained: Model) -> UNet:
    """A copy of the trained network without dropout: the teacher's answers have no noise that the student should average."""
    description = trained.description
    undropped = replace(description, network=replace(description.network, dropout=0.0))
    network = build_network(undropped, seed=0, num_timesteps=trained.network.num_timesteps)
    network.load_state_dict(trained.network.state_dict())
    return network


def distil(
    distillation: Distillation, params: Params, out: Path, *, checkpoint_interval_sec: float, run_id: str | None
) -> Journal:
    """Train the student to the end, from the last checkpoint if there is one, and write it over its teacher in `out`.

    Returns the journal of its training.
    """
    training, description, store = distillation.training, distillation.description, distillation.store
    with checkpoint.exclusive(store):
        journal = Journal(store, training, checkpoint_interval_sec=checkpoint_interval_sec, phase=DISTIL)
        journal.resume()
        training.sync_from_first()
        report_start(journal, None)
        with runs.stage_run("train", params=params.model_dump(mode="json", by_alias=True), resume_run_id=run_id) as run:
            preview = StudentPreview(training, description, distillation.teacher)
            with run.watching_machine():
                train_to_the_end(training, journal, preview, run, None)
            write(out, distillation, run)
            run.metrics({"distil/seconds": journal.seconds})
        checkpoint.finish(store)
    return journal


def write(out: Path, distillation: Distillation, run: runs.StageRun) -> None:
    """Write the student, with its teacher's weights among the snapshots."""
    training, trained = distillation.training, distillation.trained
    weights, snapshots = training.averages_at(training.num_steps)
    teacher = {f"{TEACHER}{name}": tensor for name, tensor in trained.network.state_dict().items()}
    save_tensors(out / SNAPSHOTS, snapshots | teacher)
    run.model(save_model(out, distillation.description, weights=weights, schedule=trained.schedule))


if __name__ == "__main__":
    from pipeline import cli

    cli.main(["distil", *sys.argv[1:]])
