"""Small models with weights that matter: a new network's last convolution is zero, and every bit would be equal."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.artefacts.model import DataSpec, Description, build_network, save_model
from pipeline.artefacts.sampling_defaults import SamplingDefaults
from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.noise import NoiseSchedule
from tests.service.server import Server, serving
from tests.small_sets import SMALL_NETWORK

CLASS_NAMES = ("cat", "dog", "bird")


def _weights(description: Description) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    weights = build_network(description, seed=3).state_dict()
    return {name: weight + 0.05 * torch.randn(weight.shape, generator=generator) for name, weight in weights.items()}


def write_model(
    folder: Path,
    *,
    class_names: tuple[str, ...] | None = CLASS_NAMES,
    guidance_scale: float = 1.0,
    spoil: Callable[[dict[str, torch.Tensor]], None] | None = None,
) -> Path:
    description = Description(
        data=DataSpec(image_size=8, channels=1, class_names=class_names, sigma_data=0.5),
        network=replace(SMALL_NETWORK, widths=(8, 16)),
        target="v",
        sampling=SamplingDefaults(sampler="dpmpp_2m", num_steps=10, guidance_scale=guidance_scale),
        timetables={"ddim": {"3": (99, 60, 20)}},
    )
    weights = _weights(description)
    if spoil:
        spoil(weights)
    save_model(folder, description, weights=weights, schedule=NoiseSchedule(cosine_betas(100)))
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, 8x8, T = 100."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def classless_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without classes."""
    return write_model(tmp_path_factory.mktemp("classless"), class_names=None)


@pytest.fixture(scope="session")
def broken_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, but the network's answer for class 1 is infinite."""

    def spoil(weights: dict[str, torch.Tensor]) -> None:
        weights["label.weight"][1] = 1e30

    return write_model(tmp_path_factory.mktemp("broken"), spoil=spoil)


@pytest.fixture(scope="session")
def server(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service as it is by default, for all tests that do not end it."""
    with serving(model_folder, tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from tests.service.page import CHROMIUM, playwright

    with playwright.sync_playwright() as driver:
        # Root has no sandbox; the page is ours.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """The playground, after it has loaded the model's description."""
    from tests.service.page import TIMEOUT_MS, expect

    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(f"{server.url}/playground")
    expect(page.locator("#model code")).to_be_visible()
    yield page
    context.close()
    assert faults == []
