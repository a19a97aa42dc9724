"""Files of version 0.1 (tests/data/v0_1) load, serve, are evaluated, packed and replayed for ever."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.artefacts import passport
from pipeline.artefacts.model import DESCRIPTION, ONNX, WEIGHTS, load_model, model_digest
from pipeline.diffusion.seeds import image_seed
from pipeline.evaluation.evaluator import load_evaluator
from pipeline.export import bundle
from pipeline.export.onnx import check_onnx
from pipeline.inference.draw import draw
from service import replay
from service.engine.stepper import Stepper
from tests.command_line import foundry
from tests.image_sets import write_evaluator
from tests.small_sets import write_prepared

DATA = Path(__file__).parent / "data" / "v0_1"
DIGEST = "05d3891f064fd6e397a9cc4196bec1ccc229309b21ceee34ad2b29a4878059f9"
KEY = b"frozen key of version 0.1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The model folder without what BentoML and `package` put beside it."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in (WEIGHTS, DESCRIPTION):
        shutil.copyfile(DATA / "model" / name, folder / name)
    return folder


def test_the_model_folder_loads_with_its_digest(folder: Path) -> None:
    model = load_model(folder)
    assert model.digest == model_digest(folder) == DIGEST
    assert model.description.data.class_names == ("cat", "dog")
    assert model.description.timetables == {"dpmpp_2m": {"5": (99, 70, 40, 15, 3)}}


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_the_bentos_model_is_served_by_both_back_ends(backend: str) -> None:
    stepper = Stepper.load(DATA / "model", rows=2, slots=4, max_mib=64, threads=1, backend=backend)  # type: ignore[arg-type]
    assert stepper.model.digest == DIGEST


def test_the_bentos_onnx_file_denoises_as_the_model_does() -> None:
    check_onnx(load_model(DATA / "model"), DATA / "model" / ONNX)


@pytest.mark.parametrize(("name", "key", "backend"), [("unsigned", None, "torch"), ("signed", KEY, "onnxruntime")])
def test_a_picture_is_verified_and_replays(
    name: str, key: bytes | None, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = passport.load(DATA / f"{name}.png", key)
    assert original.is_verified == (key is not None)
    assert original.passport.determinism == "exact"
    monkeypatch.setenv("FOUNDRY_BACKEND", backend)
    drawn = replay.draw_locally(DATA / "model", original.passport)
    # On another machine, or with other libraries, rounding may move a pixel by one level.
    same_machine = drawn.passport.repro_id == original.passport.repro_id
    assert np.abs(drawn.image.astype(int) - original.image).max() <= (0 if same_machine else 1)


def test_a_changed_picture_is_refused(tmp_path: Path) -> None:
    original = passport.load(DATA / "signed.png", KEY)
    changed = tmp_path / "changed.png"
    changed.write_bytes(original.passport.png(original.image ^ 1, b"another key"))
    with pytest.raises(passport.PassportError):
        passport.load(changed, KEY)


@pytest.mark.usefixtures("workspace")
def test_the_folder_is_packed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "packed"
    foundry("model", "package", "--model", folder, "--folder", out)
    assert capsys.readouterr().out == f"{out}\n"
    assert model_digest(out) == DIGEST
    assert (out / ONNX).exists()
    assert bundle.fetch(str(folder)).origin["data.digest"] == "da" * 32


def test_the_model_is_evaluated_like_any_other(
    folder: Path, digits: tuple[NDArray[np.uint8], NDArray[np.int64]], tmp_path: Path
) -> None:
    dataset = write_prepared(tmp_path / "prepared", digits[0][:200, ..., None], None, 100)
    write_evaluator(tmp_path / "features", dataset, num_train=50)
    images = draw(load_model(folder), [image_seed(0, i) for i in range(40)], [i % 2 for i in range(40)])
    figures = load_evaluator(tmp_path / "features", dataset).figures(images, None)
    assert figures["num_images"] == 40
    assert figures["kid"] > 0
    assert all(np.isfinite(value) for value in figures.values())
