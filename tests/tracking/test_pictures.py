"""The pictures of a pipeline in MLflow's own pages, in a real browser."""

import io
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.tracking import runs
from tests.servers import free_port
from tests.service.page import CHROMIUM, TIMEOUT_MS, expect, needs_chromium, playwright
from tests.tracking.stored import parent_of, pictures_below, stored_runs

pytestmark = [needs_chromium, pytest.mark.long]
COLOURS = {0: (200, 0, 0), 640: (0, 200, 0), 1280: (0, 0, 200)}
"""Of the picture of each step."""


@pytest.fixture
def address(tracking_store: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of the page with the pictures of a training that drew three, on a server that `foundry runs ui` starts."""
    assert tracking_store.exists()
    # Above a picture MLflow shows its run's name on one line, however long.
    monkeypatch.setenv("DVC_EXP_NAME", "wide-network-with-attention-in-all-of-its-levels-and-twice-as-many-channels")
    with runs.stage_run("train", params={"train": {"seed": 0}}) as run:
        for step, colour in COLOURS.items():
            Image.new("RGB", (300, 200), colour).save("grid.png")
            run.image("train/grid", Path("grid.png"), step=step)
    [pictures] = pictures_below(parent_of(stored_runs("train")[0]))
    port = free_port()
    command = [sys.executable, "-m", "pipeline", "runs", "ui", "--port", str(port)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(root)}) as server:
        try:
            wait_for(f"http://127.0.0.1:{port}/health")
            run_page = f"#/experiments/{pictures.info.experiment_id}/runs/{pictures.info.run_id}/model-metrics"
            yield f"http://127.0.0.1:{port}/{run_page}"
        finally:
            server.terminate()


def wait_for(address: str) -> None:
    end = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()  # noqa: S310  # our own address
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.2)
        else:
            return


def shown(picture: Any) -> tuple[int, ...]:
    """The colour of the middle of a picture, as the browser paints it."""
    image = Image.open(io.BytesIO(picture.screenshot())).convert("RGB")
    return tuple(image.getpixel((image.width // 2, image.height // 2)))


def test_the_slider_of_a_card_shows_the_picture_of_each_step(address: str) -> None:
    with playwright.sync_playwright() as driver:
        # Root has no sandbox; the page is ours.
        page = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]).new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.goto(address)
        slider = page.get_by_role("slider")
        for number, (step, colour) in enumerate(COLOURS.items()):
            slider.press("ArrowRight" if number else "Home")
            expect(slider).to_have_attribute("aria-valuenow", str(step))
            picture = page.locator(f'img[src*="%2Bstep%2B{step}%2B"]')
            picture.wait_for()
            page.wait_for_function("image => image.complete && image.naturalWidth", arg=picture.element_handle())
            # The pictures of the cards are thumbnails in WebP, which loses a little.
            assert shown(picture) == pytest.approx(colour, abs=8)
            assert is_within_its_card(picture)


def is_within_its_card(picture: Any) -> bool:
    """Whether no element that hides what is beyond it hides a part of the picture."""
    return bool(
        picture.evaluate(
            """image => {
                const inner = image.getBoundingClientRect();
                for (let each = image.parentElement; each; each = each.parentElement) {
                    const outer = each.getBoundingClientRect();
                    const clips = getComputedStyle(each).overflowX !== "visible" && getComputedStyle(each).display !== "contents";
                    if (clips && (inner.right > outer.right + 1 || inner.left < outer.left - 1)) return false;
                }
                return true;
            }"""
        )
    )
