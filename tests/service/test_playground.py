"""The page in a real browser, before the real service."""

import base64
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.passport import read

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
KEY = "a key for the test"
LARGEST_SEED = 2**63 - 1
START_SEC = 120

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is in the e2e extra")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
expect = playwright.expect


@pytest.fixture(scope="module")
def url(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service that wants a key and draws no more than 600 rows a request."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("bentoml")
    environment = {
        **os.environ,
        "BENTOML_HOME": str(home),
        "FOUNDRY_API_KEYS": KEY,
        "FOUNDRY_MAX_REQUEST_ROW_STEPS": "800",
        "FOUNDRY_MODEL_NAME": "pets",
        "FOUNDRY_THREADS": "1",
    }
    command = [sys.executable, "-m", "service.serve", "--model", str(model_folder), "--port", str(port)]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            _wait_until_ready(f"http://127.0.0.1:{port}/readyz", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SEC
    while time.monotonic() < deadline:
        assert process.poll() is None, "the service has ended"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    pytest.fail(f"the service was not ready in {START_SEC} s")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        # Root has no sandbox; the page is ours.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def stranger(browser: Any, url: str) -> Iterator[Any]:
    """The page as it opens: without a key."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(30_000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(f"{url}/playground")
    yield page
    context.close()
    assert faults == []


@pytest.fixture
def page(stranger: Any) -> Any:
    """The page with the key."""
    stranger.get_by_text("API key", exact=True).click()
    stranger.get_by_label("Kept by this page").fill(KEY)
    stranger.get_by_label("Kept by this page").press("Tab")
    expect(stranger.get_by_text("pets")).to_be_visible()
    return stranger


def set_number(page: Any, number: int) -> None:
    page.get_by_label("Pictures").fill(str(number))


def draw(page: Any, number: int) -> None:
    """Draw and wait for all pictures."""
    set_number(page, number)
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("li[data-done]")).to_have_count(number)


def png_of(page: Any, number: int = 0) -> bytes:
    source = page.get_by_role("img").nth(number).get_attribute("src")
    return base64.b64decode(source.removeprefix("data:image/png;base64,"))


def seeds(page: Any) -> list[str]:
    return list(page.locator(".seed").all_text_contents())


def test_the_page_says_what_the_model_can_draw(page: Any) -> None:
    assert page.get_by_label("Class").locator("option").all_text_contents() == ["any", "cat", "dog", "bird"]
    expect(page.get_by_label("Steps")).to_have_value("10")
    expect(page.get_by_label("Steps")).to_have_attribute("max", "100")
    expect(page.get_by_label("DPM++ 2M")).to_be_checked()


def test_pictures_appear_out_of_noise_and_are_done_with_seed_and_passport(page: Any) -> None:
    page.get_by_label("Class").select_option("dog")
    page.get_by_label("DDIM").check()
    page.get_by_label("Steps").fill("100")
    page.get_by_label("Guidance").fill("1")
    set_number(page, 4)
    page.get_by_role("button", name="Draw").click()
    page.locator("li:not([data-done]) .frame canvas").first.wait_for()
    page.locator("li:not([data-done]) .frame img").first.wait_for()
    expect(page.locator("li[data-done]")).to_have_count(4)
    expect(page.get_by_role("status")).to_have_text("All 4 pictures are done.")
    assert len(set(seeds(page))) == 4
    for number, seed in enumerate(seeds(page)):
        expect(page.get_by_role("img").nth(number)).to_have_attribute("alt", f"dog, seed {seed}")
        passport = read(png_of(page, number), None).passport
        assert (str(passport.seed), passport.class_label) == (seed, 1)
        assert (passport.sampler, passport.num_steps) == ("ddim", 100)


def test_a_seed_beyond_what_javascript_can_count_draws_the_same_picture_again(page: Any, url: str) -> None:
    page.get_by_label("Seed").fill(str(LARGEST_SEED))
    draw(page, 2)
    first, second = seeds(page)
    assert first == str(LARGEST_SEED)
    order = {"seed": int(second), "steps": 10, "response_format": "png"}
    alone = httpx.post(
        f"{url}/v1/images/generations", json=order, headers={"Authorization": f"Bearer {KEY}"}, timeout=60
    )
    assert alone.content == png_of(page, 1)


def test_a_picture_is_downloaded_as_it_was_drawn_and_its_seed_copied(page: Any, tmp_path: Path) -> None:
    draw(page, 1)
    (seed,) = seeds(page)
    with page.expect_download() as download:
        page.get_by_role("link", name=f"Download the picture with seed {seed}").click()
    assert download.value.suggested_filename == f"any-class-{seed}.png"
    download.value.save_as(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes() == png_of(page)
    page.get_by_role("button", name=f"Copy seed {seed}").click()
    expect(page.get_by_role("status")).to_have_text(f"Seed {seed} is copied.")
    page.get_by_label("Seed").focus()
    page.keyboard.press("Control+V")
    expect(page.get_by_label("Seed")).to_have_value(seed)


@pytest.mark.parametrize("how", ["button", "key"])
def test_stopping_ends_the_work_of_the_service_too(page: Any, url: str, how: str) -> None:
    page.get_by_label("Steps").fill("100")
    set_number(page, 8)
    page.get_by_role("button", name="Draw").click()
    page.locator("li .frame img").first.wait_for()
    if how == "key":
        page.keyboard.press("Escape")
    else:
        page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("status")).to_have_text("Stopped.")
    expect(page.locator("li:not([data-done])")).to_have_count(0)
    expect(page.get_by_role("button", name="Draw")).to_be_enabled()
    deadline = time.monotonic() + 10
    while (open_images := _open_images(url)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert open_images == 0


def _open_images(url: str) -> int:
    queue = httpx.get(f"{url}/v1/queue", headers={"Authorization": f"Bearer {KEY}"}, timeout=30).json()
    return int(queue["active_units"] + queue["waiting_units"])


def test_everything_can_be_done_with_the_keyboard(page: Any) -> None:
    page.get_by_label("Class").focus()
    page.keyboard.type("bird")
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    page.keyboard.press("Tab")
    page.keyboard.type("77")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    page.keyboard.type("5")
    page.keyboard.press("Enter")
    expect(page.locator("li[data-done]")).to_have_count(1)
    passport = read(png_of(page), None).passport
    assert (passport.class_label, passport.seed, passport.sampler, passport.num_steps) == (2, 77, "ddim", 5)


def test_every_control_has_a_name(page: Any) -> None:
    draw(page, 1)
    tree = page.locator("body").aria_snapshot()
    controls = re.findall(r"- (button|combobox|slider|textbox|spinbutton|radio|link|img)(.*)", tree)
    assert len(controls) >= 13
    assert [control for control in controls if not re.match(r' "\S', control[1])] == []


def test_without_a_class_there_is_nothing_to_guide_to(page: Any) -> None:
    expect(page.get_by_label("Guidance")).to_be_disabled()
    page.get_by_label("Class").select_option("cat")
    page.get_by_label("Guidance").fill("3")
    draw(page, 1)
    assert read(png_of(page), None).passport.guidance_scale == 3
    page.get_by_label("Class").select_option("any")
    draw(page, 1)
    assert read(png_of(page), None).passport.guidance_scale == 1


def test_a_seed_that_is_too_large_is_refused_before_it_is_sent(page: Any) -> None:
    page.get_by_label("Seed").fill(str(LARGEST_SEED + 1))
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("#seed:invalid")).to_be_visible()
    expect(page.locator("li")).to_have_count(0)


def test_without_a_key_the_page_asks_for_one_and_keeps_it_nowhere(stranger: Any, page: Any) -> None:
    context = stranger.context
    assert context.cookies() == []
    assert [origin["localStorage"] for origin in context.storage_state()["origins"]] == []
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("The service wants an API key")
    expect(page.get_by_label("Kept by this page")).to_be_visible()
    expect(page.get_by_label("Kept by this page")).to_have_value("")


def test_a_refusal_is_shown_in_the_words_of_the_service(page: Any) -> None:
    page.get_by_label("Class").select_option("cat")
    page.get_by_label("Guidance").fill("2")
    page.get_by_label("Steps").fill("100")
    set_number(page, 8)
    page.get_by_role("button", name="Draw").click()
    expect(page.get_by_role("alert")).to_contain_text("The service refuses: n x steps")
    expect(page.locator("li")).to_have_count(0)


def _error(code: str) -> dict[str, Any]:
    return {"error": {"message": "m", "type": "server_error", "code": code, "param": None, "request_id": "r"}}


TROUBLES: dict[str, tuple[dict[str, Any], str]] = {
    "busy": (
        {"status": 429, "json": _error("queue_full"), "headers": {"Retry-After": "7"}},
        "The service is busy. Try again in 7 s.",
    ),
    "stopping": (
        {"status": 503, "json": _error("draining")},
        "The service takes no work now: it is starting or stopping.",
    ),
    "something between": ({"status": 502, "body": "<html>Bad gateway</html>"}, "The service answers with error 502."),
    "late": (
        {"status": 200, "body": 'event: error\ndata: {"error": {"code": "deadline_exceeded", "message": "m"}}\n\n'},
        "The pictures were not ready in time.",
    ),
    "half a stream": (
        {"status": 200, "body": 'event: queued\ndata: {"id": "x"}\n\nevent: progress\ndata: {"steps_'},
        "The connection broke off before all pictures were done.",
    ),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_every_trouble_is_told_in_plain_words(page: Any, trouble: str) -> None:
    answer, words = TROUBLES[trouble]
    page.route("**/v1/images/generations", lambda route: route.fulfill(**answer))
    page.get_by_role("button", name="Draw").click()
    expect(page.get_by_role("alert")).to_contain_text(words)
    expect(page.get_by_role("button", name="Draw")).to_be_enabled()
    expect(page.locator("li")).to_have_count(0)


def test_a_service_that_is_gone_is_said_to_be_so_and_tried_again(page: Any) -> None:
    page.route("**/v1/images/generations", lambda route: route.abort())
    page.get_by_role("button", name="Draw").click()
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached.")
    page.unroute("**/v1/images/generations")
    draw(page, 1)
    expect(page.get_by_role("alert")).to_be_hidden()


def test_the_page_asks_nobody_but_its_own_service(browser: Any, url: str) -> None:
    page, asked = browser.new_page(), set()
    page.on(
        "request", lambda request: asked.add(request.url.split("/")[2] if request.url.startswith("http") else "data")
    )
    page.goto(f"{url}/playground")
    expect(page.get_by_role("alert")).to_be_visible()
    page.close()
    assert asked - {"data"} == {url.removeprefix("http://")}


@pytest.mark.parametrize(("scheme", "ground"), [("light", "rgb(244, 243, 239)"), ("dark", "rgb(19, 18, 24)")])
def test_the_page_follows_the_systems_light_and_dark(browser: Any, url: str, scheme: str, ground: str) -> None:
    page = browser.new_page(color_scheme=scheme)
    page.goto(f"{url}/playground")
    expect(page.locator("body")).to_have_css("background-color", ground)
    page.close()
