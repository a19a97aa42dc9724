"""The whole measurement of a small model, with real trainings of a few steps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.distillation import Setting, distance_ratio, measure, report, time_of_training
from benchmarks.systems import Workspace
from pipeline.artefacts.dataset import Dataset
from pipeline.artefacts.model import DataSpec, Description, load_model, save_model
from pipeline.artefacts.sampling_defaults import SamplingDefaults
from pipeline.artefacts.schedule_table import read_schedule_table
from pipeline.evaluation.evaluator import load_evaluator
from pipeline.evaluation.metrics import Reference
from pipeline.params import load_params
from pipeline.schedule import schedule
from pipeline.training.initial_network import initial_network
from tests.rivals import write_setup
from tests.small_sets import SMALL_NETWORK


def test_a_student_is_measured_beside_its_teacher(
    tmp_path: Path, digits: tuple[NDArray[np.uint8], NDArray[np.int64]], root: Path
) -> None:
    write_setup(tmp_path, digits)
    params = load_params(root / "tests" / "params.yaml")
    changes = {"num_images": 1920, "network": SMALL_NETWORK}
    params = params.model_copy(
        update={
            "train": params.train.model_copy(update=changes),
            "schedule": params.schedule.model_copy(update={"num_timesteps": 50}),
            "distil": params.distil.model_copy(update={"num_images": 192, "teacher_steps": 6}),
        }
    )
    dataset = Dataset.open(tmp_path / "prepared")
    schedule(dataset, tmp_path / "schedule", params.schedule)
    table = read_schedule_table(tmp_path / "schedule" / "table.parquet")
    description = Description(
        data=DataSpec(image_size=8, channels=1, class_names=dataset.info.class_names, sigma_data=0.5),
        network=SMALL_NETWORK,
        target=params.train.target,
        sampling=SamplingDefaults(sampler="dpmpp_2m", num_steps=4, guidance_scale=1.5),
    )
    network = initial_network(description, dataset.split("train"), table.schedule, seed=0)
    save_model(tmp_path / "model", description, weights=network.state_dict(), schedule=table.schedule)
    model = load_model(tmp_path / "model")
    workspace = Workspace(tmp_path, tmp_path, params)
    setting = Setting(workspace, model, model, load_evaluator(tmp_path / "features", dataset), num_samples=40)

    results = list(measure(setting, [2, 4]))
    assert [(each["arm"], each["num_rows"]) for each in results] == [
        ("default", 8),
        ("teacher", 9),
        ("2 steps without guidance", 2),
        ("4 steps without guidance", 4),
        ("student of 2", 2),
        ("student of 2, no features", 2),
        ("student of 2, no features, teacher's states", 2),
        ("student of 4", 4),
    ]
    assert (results[0]["distance_ratio"], results[0]["distance_ratio_standard_error"]) == (1, 0)
    by_arm = {each["arm"]: each for each in results}
    # Even a student that has learnt nothing begins as its teacher, and its guided teacher is nearer to itself.
    assert by_arm["teacher"]["rms_to_exact"] < by_arm["2 steps without guidance"]["rms_to_exact"]
    # Each arm is trained on the batches that its name says.
    own, teachers = (by_arm[f"student of 2, no features{states}"] for states in ("", ", teacher's states"))
    assert own["rms_to_exact"] != teachers["rms_to_exact"]
    assert all((each["training_sec"] or 0) > 0 for each in results[4:])
    assert report(results, time_of_training(setting)).count("\n") == 2 + len(results)


def test_the_error_of_a_ratio_of_distances_is_that_of_repeated_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    reference = Reference(torch.randn(4000, 3, generator=generator, dtype=torch.float64))
    found = []
    for _ in range(60):
        first = 1 + torch.randn(400, 3, generator=generator, dtype=torch.float64)
        found.append(distance_ratio(first + 0.3 * torch.randn(400, 3, generator=generator), first, reference))
    ratios, errors = np.array(found).T
    assert errors.mean() == pytest.approx(ratios.std(), rel=0.3)


def test_distances_and_recall_are_ratios_to_the_first_arm() -> None:
    results = [
        {
            "arm": name, "num_rows": rows, "distance_ratio": ratio, "distance_ratio_standard_error": error, "kid": 0.5,
            "kid_standard_error": 0.1, "recall": recall, "sharpness_ratio": 1.0, "rms_to_exact": 0.05,
            "training_sec": seconds,
        }
        for name, rows, ratio, error, recall, seconds in (
            ("default", 20, 1.0, 0.0, 0.8, None), ("student", 2, 1.5, 0.1, 0.6, 150.0),
        )
    ]  # fmt: skip
    lines = report(results, train_sec=300.0).splitlines()
    assert lines[2:] == [
        "| default | 20 | 1 ± 0 | 0.5 ± 0.1 | 1 | 1 | 0.05 | – |",
        "| student | 2 | 1.5 ± 0.2 | 0.5 ± 0.1 | 0.75 | 1 | 0.05 | 0.5 |",
    ]
