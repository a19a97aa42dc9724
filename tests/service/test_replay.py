import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.artefacts import passport
from pipeline.errors import CheckFailedError, FoundryError
from service import replay
from tests.command_line import foundry
from tests.service.server import ROOT, Server

Replay = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Replay:
    """The command; returns its output."""

    def replayed(*arguments: object) -> str:
        foundry("replay", *arguments)
        return capsys.readouterr().out

    return replayed


@pytest.fixture(scope="module")
def picture(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image, drawn by the service together with three others."""
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    body: dict[str, Any] = {
        "n": 4,
        "seed": 11,
        "steps": 7,
        "sampler": "ddpm",
        "class_label": "dog",
        "guidance_scale": 2.5,
    }
    four = server.post(**body, response_format="b64_json").json()["data"]
    alone = server.post(**{**body, "n": 1, "seed": four[2]["seed"]}, response_format="png")
    path.write_bytes(alone.content)
    return path


def rewritten(picture: Path, path: Path, image: np.ndarray | None = None, **changes: object) -> Path:
    """The picture with different pixels or passport."""
    original = passport.load(picture, None)
    pixels = original.image if image is None else image
    path.write_bytes(replace(original.passport, **changes).png(pixels, None))  # type: ignore[arg-type]
    return path


def test_an_image_of_the_service_is_drawn_again_locally_bit_by_bit(
    run: Replay, picture: Path, model_folder: Path
) -> None:
    assert run(picture, "--model", model_folder) == f"{picture}: every pixel is the same\n"


def test_an_image_of_the_service_is_drawn_again_by_the_service(run: Replay, picture: Path, server: Server) -> None:
    assert "every pixel is the same" in run(picture, "--url", server.url)


def test_the_service_and_a_local_stepper_have_the_same_passport(picture: Path, model_folder: Path) -> None:
    was = passport.load(picture, None).passport
    assert replay.draw_locally(model_folder, was).passport == was


def test_a_seed_beyond_a_float64_is_drawn_again(
    run: Replay, model_folder: Path, server: Server, tmp_path: Path
) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(server.post(seed=2**63 - 1, steps=3, response_format="png").content)
    assert "every pixel is the same" in run(picture, "--model", model_folder)
    assert "every pixel is the same" in run(picture, "--url", server.url)


def test_the_model_can_be_given_by_the_environment(
    run: Replay, picture: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FoundryError, match="--model: should name a model folder, or --url a service"):
        run(picture)
    monkeypatch.setenv("FOUNDRY_MODEL", str(model_folder))
    assert "every pixel is the same" in run(picture)


def test_one_changed_pixel_is_detected(run: Replay, picture: Path, model_folder: Path, tmp_path: Path) -> None:
    image = passport.load(picture, None).image.copy()
    image[3, 4] ^= 2
    changed = rewritten(picture, tmp_path / "changed.png", image)
    with pytest.raises(
        CheckFailedError, match=r"1 of 64 values differ, by at most 2 of 255; .*the picture was changed"
    ):
        run(changed, "--model", model_folder)


def test_a_changed_seed_is_detected(run: Replay, picture: Path, server: Server, tmp_path: Path) -> None:
    with pytest.raises(CheckFailedError, match=r"of 64 values differ"):
        run(rewritten(picture, tmp_path / "changed.png", seed=12), "--url", server.url)


def test_another_repro_id_or_fast_mode_is_named_as_the_cause(
    run: Replay, picture: Path, model_folder: Path, tmp_path: Path
) -> None:
    image = passport.load(picture, None).image ^ 1
    elsewhere = rewritten(picture, tmp_path / "elsewhere.png", image, repro_id="0" * 16)
    with pytest.raises(CheckFailedError, match=f"repro_id {'0' * 16}, this is .*another machine, library or setting"):
        run(elsewhere, "--model", model_folder)
    fast = rewritten(picture, tmp_path / "fast.png", image, determinism="fast")
    with pytest.raises(CheckFailedError, match="determinism fast"):
        run(fast, "--model", model_folder)


def test_a_picture_of_another_size_is_a_difference(
    run: Replay, picture: Path, model_folder: Path, tmp_path: Path
) -> None:
    cropped = rewritten(picture, tmp_path / "cropped.png", passport.load(picture, None).image[:4])
    with pytest.raises(CheckFailedError, match="the new image is 8x8x1, the original 4x8x1"):
        run(cropped, "--model", model_folder)


def test_another_model_is_refused_before_anything_is_drawn(
    run: Replay, picture: Path, classless_folder: Path, server: Server, tmp_path: Path
) -> None:
    with pytest.raises(FoundryError, match=r"holds model \w{12}, the picture was drawn by \w{12}"):
        run(picture, "--model", classless_folder)
    foreign = rewritten(picture, tmp_path / "foreign.png", model_digest="0" * 64)
    with pytest.raises(FoundryError, match=f"{server.url}: holds model"):
        run(foreign, "--url", server.url)


def test_a_passport_that_does_not_fit_the_model_is_refused(
    run: Replay, picture: Path, model_folder: Path, server: Server, tmp_path: Path
) -> None:
    beyond = rewritten(picture, tmp_path / "class.png", class_label=3)
    with pytest.raises(FoundryError, match=r"class_label: should be below 3"):
        run(beyond, "--model", model_folder)
    with pytest.raises(FoundryError, match="num_steps: should be in 1 … 100"):
        run(rewritten(picture, tmp_path / "steps.png", num_steps=101), "--model", model_folder)
    with pytest.raises(FoundryError, match=f"{server.url}: 422: .*class_label"):
        run(beyond, "--url", server.url)


def test_an_unreachable_service_is_an_error(run: Replay, picture: Path) -> None:
    with pytest.raises(FoundryError, match=r"http://127\.0\.0\.1:9: .*refused"):
        run(picture, "--url", "http://127.0.0.1:9")


def test_with_a_key_a_tampered_passport_is_refused(
    run: Replay, picture: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = passport.load(picture, None)
    signed = tmp_path / "signed.png"
    signed.write_bytes(original.passport.png(original.image, b"secret"))
    monkeypatch.setenv("FOUNDRY_PASSPORT_KEY", "secret")
    assert "every pixel is the same" in run(signed, "--model", model_folder)
    with pytest.raises(FoundryError, match=r"picture\.png: the passport is not signed"):
        run(picture, "--model", model_folder)
    monkeypatch.setenv("FOUNDRY_PASSPORT_KEY", "another")
    with pytest.raises(FoundryError, match="the signature does not match"):
        run(signed, "--model", model_folder)


def test_different_pixels_end_with_code_3_and_one_line(picture: Path, model_folder: Path, tmp_path: Path) -> None:
    changed = rewritten(picture, tmp_path / "changed.png", passport.load(picture, None).image ^ 1)
    command = [sys.executable, "-m", "pipeline", "replay", str(changed), "--model", str(model_folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
