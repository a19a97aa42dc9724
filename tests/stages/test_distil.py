"""The student, made by the stage `train` in processes of its own; and what evaluation and registry make of it."""

import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.artefacts.model import SNAPSHOTS, TEACHER, default_plan, load_model, teacher_of
from pipeline.artefacts.tensors import load_tensors
from pipeline.inference.draw import draw
from pipeline.training import checkpoint
from tests.processes import wait_for
from tests.stages.trainings import digests, train

pytestmark = pytest.mark.trains
DISTIL = {
    "steps": 2,
    "num_images": 9600,
    "teacher_steps": 6,
    "guidance_scale": 1.5,
    "guidance_interval": [0.0, 1.0],
    "feature_weight": 3.0,
    "learning_rate_ratio": 0.5,
}


@pytest.fixture(scope="module")
def distilled(project: Path, root: Path) -> Path:
    """The project with a student in `student`, and with its teacher in `teacher`."""
    (project / "whole").rename(project / "teacher")
    document = yaml.safe_load((project / "params.yaml").read_text())
    document["distil"] = DISTIL
    (project / "params.yaml").write_text(yaml.safe_dump(document))
    process = train(root, project, "student")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "resuming after 4800 images" in errors  # the training is not repeated
    return project


def test_a_student_is_a_model_folder_with_the_weights_of_its_teacher_beside_it(distilled: Path) -> None:
    teacher, student = load_model(distilled / "teacher"), load_model(distilled / "student")
    assert not teacher.description.is_distilled
    assert student.description.is_distilled
    assert student.description.sampling.num_steps == 2
    assert student.description.sampling.guidance_scale == 1
    assert list(student.description.timetables) == ["ddim"]
    found = student.description.provenance["teacher"]
    sampling = {"sampler": "dpmpp_2m", "num_steps": 6, "guidance_scale": 1.5, "guidance_interval": [0.0, 1.0]}
    assert found == {"digest": teacher.digest, **sampling}
    kept = teacher_of(student, distilled / "student").network.state_dict()
    assert all((kept[name] == weight).all() for name, weight in teacher.network.state_dict().items())
    names = load_tensors(distilled / "student" / SNAPSHOTS)
    assert {name.split("/")[0] for name in names if not name.startswith(TEACHER)} == {"150", "300"}
    before = {name: digest for name, digest in digests(distilled / "teacher").items() if not name.startswith("m")}
    after = digests(distilled / "student")
    assert {name for name in before if before[name] != after[name]} == {SNAPSHOTS}


def test_a_student_of_two_steps_draws_its_teachers_images_better_than_two_steps_of_the_teacher(distilled: Path) -> None:
    teacher, student = load_model(distilled / "teacher"), load_model(distilled / "student")
    seeds, labels = list(range(100)), [i % 10 for i in range(100)]
    wanted = draw(teacher, seeds, labels, sampler="dpmpp_2m", num_steps=6, guidance_scale=1.5)
    found = {
        "student": draw(student, seeds, labels),
        "teacher": draw(teacher, seeds, labels, sampler="ddim", num_steps=2, guidance_scale=1.5),
    }
    rms = {name: np.sqrt(np.square(images / 127.5 - wanted / 127.5).mean()) for name, images in found.items()}
    assert rms["student"] < 0.7 * rms["teacher"]


def test_a_student_of_one_step_is_made_of_the_same_training_and_draws_in_one_network_call(
    distilled: Path, root: Path
) -> None:
    document = yaml.safe_load((distilled / "params.yaml").read_text())
    document["distil"] |= {"steps": 1, "num_images": 1920}
    shutil.copytree(distilled / ".foundry", distilled / "one" / ".foundry")
    (distilled / "one" / "data").symlink_to(distilled / "data")
    (distilled / "one" / "params.yaml").write_text(yaml.safe_dump(document))
    process = train(root, distilled / "one", "student")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    teacher, student = load_model(distilled / "teacher"), load_model(distilled / "one" / "student")
    assert default_plan(student).num_rows == 1
    seeds, labels = list(range(50)), [i % 10 for i in range(50)]
    wanted = draw(teacher, seeds, labels, sampler="dpmpp_2m", num_steps=6, guidance_scale=1.5)
    single = draw(teacher, seeds, labels, sampler="ddim", num_steps=1, guidance_scale=1.5)
    rms = [
        np.sqrt(np.square(images / 127.5 - wanted / 127.5).mean()) for images in (draw(student, seeds, labels), single)
    ]
    assert rms[0] < rms[1]


def test_a_killed_distillation_goes_on_to_the_same_bytes(distilled: Path, root: Path) -> None:
    wanted = digests(distilled / "student")
    newest = max((distilled / ".foundry" / "training").iterdir(), key=lambda store: (store / "lock").stat().st_mtime)
    for path in newest.rglob("*"):
        if path.is_file():
            path.unlink()
    process = train(root, distilled, "killed")
    wait_for(lambda: list(newest.glob("[0-9]*.safetensors")), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not load_model(distilled / "killed").description.is_distilled
    stores = list((distilled / ".foundry" / "training").iterdir())
    before = sum(saved.notes["seconds"] for store in stores if (saved := checkpoint.latest(store)[0]))
    again, began = train(root, distilled, "killed"), time.monotonic()
    _, errors = again.communicate()
    seconds_of_process = time.monotonic() - began
    assert again.returncode == 0, errors
    assert errors.count("resuming after") == 2
    assert digests(distilled / "killed") == wanted
    # The stage has taken what both processes have, and the training before them.
    seconds = json.loads((distilled / ".foundry" / "stage-times" / "train.json").read_text())["seconds"]
    assert seconds_of_process < seconds <= before + seconds_of_process + 0.1
