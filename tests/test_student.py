"""A student is a model like any other: one is drawn, exported, served and traced, and competes with its teacher."""

import io
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.artefacts.model import SNAPSHOTS, TEACHER, Model, load_model, save_model
from pipeline.artefacts.sampling_defaults import SamplingDefaults
from pipeline.artefacts.tensors import save_tensors
from pipeline.evaluation.results import write_results
from pipeline.inference.draw import draw
from pipeline.register import register
from pipeline.registry.gate import promotion
from tests.command_line import foundry
from tests.service.conftest import write_model
from tests.service.server import Server, serving
from tests.small_sets import BETTER_THAN_BASELINES
from tests.stages.registrations import NOWHERE
from tests.test_retraining import Loop, failed

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]
NAME = "student"
SAMPLING = SamplingDefaults(sampler="ddim", num_steps=2, guidance_scale=1.0)
TAUGHT = SamplingDefaults(sampler="dpmpp_2m", num_steps=10, guidance_scale=2.0, guidance_interval=(0.5, 0.9))
SEEDS, LABELS = [5, 6, 7], [0, 1, 2]


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """A student of two steps, with its teacher's weights beside it as `pipeline.distil` writes them."""
    teacher = load_model(write_model(tmp_path / "teacher", guidance_scale=2.0))
    weights = teacher.network.state_dict()
    description = replace(
        teacher.description,
        sampling=SAMPLING,
        timetables={"ddim": {"2": (99, 60)}},
        provenance={"teacher": {"digest": teacher.digest, **asdict(TAUGHT)}},
    )
    folder = tmp_path / "model"
    save_model(
        folder, description, weights={name: 0.9 * each for name, each in weights.items()}, schedule=teacher.schedule
    )
    save_tensors(folder / SNAPSHOTS, {f"{TEACHER}{name}": each for name, each in weights.items()})
    return folder


@pytest.fixture
def champion(tracking_store: Path, student: Path, tmp_path: Path) -> Model:
    """The student as it is registered."""
    assert tracking_store
    (tmp_path / "evaluation").mkdir()
    write_results(tmp_path / "evaluation", {**BETTER_THAN_BASELINES, promotion.KID: 0.1})
    outcome = register(NAME, student, tmp_path / "evaluation", tmp_path / "registration", NOWHERE)
    assert outcome.startswith(f"{NAME} version 1 is champion")
    registered = load_model(tmp_path / "registration" / "model")
    assert registered.description == load_model(student).description
    return registered


@pytest.fixture
def server(champion: Model, tmp_path: Path) -> Iterator[Server]:
    """A service of the packed champion, by ONNX Runtime."""
    packed = tmp_path / "packed"
    foundry("model", "package", "--model", f"models:/{NAME}@champion", "--folder", packed)
    assert load_model(packed).digest == champion.digest
    with serving(packed, tmp_path / "home", FOUNDRY_BACKEND="onnxruntime") as started:
        yield started


def test_a_student_is_registered_drawn_and_exported_as_it_was_trained(
    champion: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, wanted = f"models:/{NAME}@champion", draw(champion, SEEDS, LABELS)
    card = " ".join((tmp_path / "registration" / "MODEL_CARD.md").read_text().split())
    assert "its teacher: better than the best linear denoiser" in card
    assert "in 10 steps of `dpmpp_2m` with guidance 2 from 0.5 to 0.9 of the steps it draws in 2 steps" in card

    foundry("sample", "--model", uri, "--num-images", 3, "--seed", 5, "--out", tmp_path / "samples.npz")
    with np.load(tmp_path / "samples.npz") as samples:
        again = draw(champion, samples["seeds"].tolist(), samples["labels"].tolist(), sampler="ddim", num_steps=2)
        assert np.array_equal(samples["images"], again)
    assert (wanted != draw(champion, SEEDS, LABELS, num_steps=3)).any()
    assert "student" not in capsys.readouterr().err
    for other in (("--steps", 3), ("--sampler", "ddpm"), ("--guidance-scale", 2), ("--eta", 1)):
        foundry("sample", "--model", uri, "--num-images", 1, "--out", tmp_path / "other.png", *other)
        assert "a student, trained for --sampler ddim --steps 2 without guidance" in capsys.readouterr().err
    import mlflow

    frame = pd.DataFrame({"seed": SEEDS, "label": LABELS})
    assert np.array_equal(mlflow.pyfunc.load_model(uri).predict(frame), wanted)

    # Each compares images, or denoised ones, with the model's before it is written.
    for form, name in (("onnx", "model.onnx"), ("diffusers", "exported"), ("torch-export", "model.pt2")):
        foundry("model", "export", "--to", form, "--model", uri, "--out", tmp_path / name)
        assert (tmp_path / name).exists()
    index = json.loads((tmp_path / "exported" / "model_index.json").read_text())
    assert (index["sampler"], index["num_steps"], index["guidance_scale"]) == ("ddim", 2, 1.0)


def test_the_service_draws_with_a_students_own_steps_and_a_picture_leads_back_to_it(
    champion: Model, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [offered] = server.get("/v1/models").json()["data"]
    assert (offered["sampler"], offered["steps"], offered["guidance_scale"]) == ("ddim", 2, 1.0)
    picture = tmp_path / "picture.png"
    picture.write_bytes(server.post(seed=5, class_label=1, response_format="png").content)
    drawn = np.asarray(Image.open(io.BytesIO(picture.read_bytes())))[:, :, None]
    # Another runtime than torch's: the last bit of a pixel may differ.
    assert np.abs(drawn.astype(int) - draw(champion, [5], [1])[0]).max() <= 1
    assert server.metric("row_steps_total", kind="image") == 2
    assert server.metric("row_steps_total", kind="guidance") == 0

    foundry("replay", picture, "--url", server.url)
    foundry("model", "trace", picture)
    told = capsys.readouterr().out
    assert "every pixel is the same" in told
    assert "2 steps of ddim, guidance 1" in told
    assert f"{NAME} version 1 (champion)" in told


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_a_student_competes_with_its_teacher_and_its_teacher_with_it(tmp_path: Path, digits: Digits) -> None:
    loop = Loop(tmp_path, None, distil={"num_images": 12_800, "teacher_steps": 6}, register={"max_latency_ratio": 1.25})
    loop.raw.mkdir(parents=True)
    np.savez(loop.raw / "digits.npz", images=digits[0], labels=digits[1])
    crown(loop, "1", loop.retrain("Digits", "train.num_images=12800"))
    teacher = loop.champions_pictures()

    student = loop.retrain("A student", "distil.steps=2")
    assert student["champion"] == "1"
    rules = {rule["name"]: rule for rule in student["rules"]}
    assert rules["better_than_linear"]["found"].startswith("its teacher: better")
    # Two rows for those of the champion's steps, which may be guided.
    assert rules["work"]["passed"]
    assert rules["work"]["found"] <= 0.5
    assert rules["latency"]["measured"]
    assert "is a student: its losses" in (tmp_path / "data" / "registration" / "report.md").read_text()
    crown(loop, "2", student)
    assert np.sqrt(np.square(loop.champions_pictures() / 127.5 - teacher / 127.5).mean()) < 0.5

    # The teacher's training is not repeated, and its digest is that of version 1.
    loop.project.run("python", "-m", "pipeline", "set", "distil.steps=null")
    loop.project.run("dvc", "repro")
    options = ("--model", "data/model", "--evaluation", "data/evaluation", "--again")
    loop.project.run("python", "-m", "pipeline", "model", "register", *options)
    again = loop.decision()
    assert (again["champion"], again["version"]) == ("2", "1")
    assert again["decision"] != "accept"
    assert "work" in failed(again)


def crown(loop: Loop, version: str, decision: dict[str, Any]) -> None:
    """Make a version champion, whatever the gate has decided."""
    if decision["decision"] != "accept":
        loop.promote(version)
