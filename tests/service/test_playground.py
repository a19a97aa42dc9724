"""The playground in a real browser, with a real service."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.artefacts.passport import read
from tests.service.page import draw, expect, needs_chromium, png_of, seeds, set_number
from tests.service.server import Server, busy

KEY = "a key for the test"
LARGEST_SEED = 2**63 - 1

pytestmark = needs_chromium


def test_the_controls_are_set_to_the_models_classes_and_defaults(page: Any) -> None:
    assert page.get_by_label("Class").locator("option").all_text_contents() == ["any", "cat", "dog", "bird"]
    expect(page.get_by_label("Steps")).to_have_value("10")
    expect(page.get_by_label("Steps")).to_have_attribute("max", "100")
    expect(page.get_by_label("DPM++ 2M")).to_be_checked()


def test_images_emerge_from_noise_and_have_a_seed_and_a_passport(page: Any, server: Server) -> None:
    page.get_by_label("Class").select_option("dog")
    page.get_by_label("DDIM").check()
    page.get_by_label("Steps").fill("100")
    page.get_by_label("Guidance").fill("1")
    set_number(page, 4)
    with busy(server):
        page.get_by_role("button", name="Draw").click()
        page.locator("li:not([data-done]) .frame canvas").first.wait_for()
        page.locator("li:not([data-done]) .frame img").first.wait_for()
    expect(page.locator("li[data-done]")).to_have_count(4)
    expect(page.get_by_role("status")).to_have_text("All 4 images are finished.")
    assert len(set(seeds(page))) == 4
    for number, seed in enumerate(seeds(page)):
        expect(page.get_by_role("img").nth(number)).to_have_attribute("alt", f"dog, seed {seed}")
        passport = read(png_of(page, number), None).passport
        assert (str(passport.seed), passport.class_label) == (seed, 1)
        assert (passport.sampler, passport.num_steps) == ("ddim", 100)


def test_a_seed_beyond_javascripts_exact_integers_draws_the_same_image_again(page: Any, server: Server) -> None:
    page.get_by_role("textbox", name="Seed").fill(str(LARGEST_SEED))
    draw(page, 2)
    first, second = seeds(page)
    assert first == str(LARGEST_SEED)
    alone = server.post(seed=int(second), steps=10, response_format="png")
    assert alone.content == png_of(page, 1)


def test_an_image_can_be_downloaded_and_its_seed_copied(page: Any, tmp_path: Path) -> None:
    draw(page, 1)
    (seed,) = seeds(page)
    with page.expect_download() as download:
        page.get_by_role("link", name=f"Download the image with seed {seed}").click()
    assert download.value.suggested_filename == f"any-class-{seed}.png"
    download.value.save_as(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes() == png_of(page)
    page.get_by_role("button", name=f"Copy seed {seed}").click()
    expect(page.get_by_role("status")).to_have_text(f"Seed {seed} copied.")
    page.get_by_role("textbox", name="Seed").focus()
    page.keyboard.press("Control+V")
    expect(page.get_by_role("textbox", name="Seed")).to_have_value(seed)


REMEMBER = """
() => {
  window.said = [];
  const remember = () => said.push(document.getElementById("load").textContent.trim());
  new MutationObserver(remember).observe(document.getElementById("load"), { childList: true, subtree: true });
}
"""
"""All that the page says about the service's load: some of it stands there for a tenth of a second only."""


def test_while_it_draws_the_page_says_who_waits_and_how_many_requests_share_the_networks_calls(
    page: Any, server: Server
) -> None:
    page.evaluate(REMEMBER)
    page.get_by_label("Steps").fill("100")
    page.get_by_label("Show", exact=True).select_option("class_label")
    with busy(server):
        page.get_by_role("button", name="Draw").click()
        expect(page.locator("#queue")).to_have_text(re.compile(r"The service draws \d+ images; [1-9]\d* wait\."))
    expect(page.locator("li[data-done]")).to_have_count(3)
    expect(page.locator("#load")).to_have_text(" ")
    assert any(text.startswith("One call of the network: 3 images of 3 requests.") for text in page.evaluate("said"))


@pytest.mark.parametrize("how", ["button", "key"])
def test_stopping_cancels_the_request(page: Any, server: Server, how: str) -> None:
    page.get_by_label("Steps").fill("100")
    set_number(page, 8)
    with busy(server):
        page.get_by_role("button", name="Draw").click()
        page.locator("li .frame img").first.wait_for()
        if how == "key":
            page.keyboard.press("Escape")
        else:
            page.get_by_role("button", name="Stop").click()
        expect(page.get_by_role("status")).to_have_text("Stopped.")
        expect(page.locator("li:not([data-done])")).to_have_count(0)
        expect(page.get_by_role("button", name="Draw")).to_be_enabled()


def test_everything_can_be_operated_with_the_keyboard(page: Any) -> None:
    page.get_by_label("Class").focus()
    page.keyboard.type("bird")
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    page.keyboard.press("Tab")
    page.keyboard.type("77")
    page.keyboard.press("Tab")
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
    controls = re.findall(r"- '?(button|combobox|slider|textbox|spinbutton|radio|link|img)\b(?: \"([^\"]+)\")?", tree)
    names = [name for _, name in controls]
    assert all(names), tree
    for start in (
        "Class",
        "Number of images",
        "Seed",
        "DDIM",
        "Steps",
        "Guidance",
        "Draw",
        "Stop",
        "Copy seed",
        "Download the",
    ):
        assert any(name.startswith(start) for name in names), tree


def test_guidance_needs_a_class(page: Any) -> None:
    expect(page.get_by_label("Guidance")).to_be_disabled()
    page.get_by_label("Class").select_option("cat")
    page.get_by_label("Guidance").fill("3")
    draw(page, 1)
    assert read(png_of(page), None).passport.guidance_scale == 3
    page.get_by_label("Class").select_option("any")
    draw(page, 1)
    assert read(png_of(page), None).passport.guidance_scale == 1


def test_a_seed_that_is_too_large_is_refused_before_it_is_sent(page: Any) -> None:
    page.get_by_role("textbox", name="Seed").fill(str(LARGEST_SEED + 1))
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("#seed:invalid")).to_be_visible()
    expect(page.locator("li")).to_have_count(0)


def test_the_page_asks_for_a_valid_key_and_stores_it_nowhere(page: Any) -> None:
    def guard(route: Any) -> None:
        if route.request.headers.get("authorization") == f"Bearer {KEY}":
            route.continue_()
        else:
            route.fulfill(status=401, json=_error("invalid_api_key"))

    page.route("**/v1/**", guard)
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("The service needs a valid API key")
    key = page.get_by_label("Kept only by this page")
    key.fill(KEY)
    key.press("Tab")
    expect(page.get_by_role("alert")).to_be_hidden()
    draw(page, 1)
    assert page.context.cookies() == []
    assert [origin["localStorage"] for origin in page.context.storage_state()["origins"]] == []
    page.reload()
    expect(key).to_have_value("")


def test_a_refusal_shows_the_services_message(page: Any) -> None:
    def ask_for_more(route: Any) -> None:
        route.continue_(post_data=json.dumps({**route.request.post_data_json, "steps": 1000}))

    page.route("**/v1/images/generations", ask_for_more)
    page.get_by_role("button", name="Draw").click()
    expect(page.get_by_role("alert")).to_contain_text("The service refuses: steps: should be at most 100")
    expect(page.locator("li")).to_have_count(0)


def _error(code: str) -> dict[str, Any]:
    return {"error": {"message": "m", "type": "server_error", "code": code, "param": None, "request_id": "r"}}


ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "busy": (
        {"status": 429, "json": _error("queue_full"), "headers": {"Retry-After": "7"}},
        "The service is busy. Try again in 7 s.",
    ),
    "stopping": (
        {"status": 503, "json": _error("draining")},
        "The service accepts no requests now: it is starting or stopping.",
    ),
    "something between": ({"status": 502, "body": "<html>Bad gateway</html>"}, "The service answers with error 502."),
    "late": (
        {"status": 200, "body": 'event: error\ndata: {"error": {"code": "deadline_exceeded", "message": "m"}}\n\n'},
        "The images were not ready in time.",
    ),
    "half a stream": (
        {"status": 200, "body": 'event: queued\ndata: {"id": "x"}\n\nevent: progress\ndata: {"steps_'},
        "The connection ended before all images were finished.",
    ),
}


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_has_a_plain_message(page: Any, error: str) -> None:
    answer, words = ERRORS[error]
    page.route("**/v1/images/generations", lambda route: route.fulfill(**answer))
    page.get_by_role("button", name="Draw").click()
    expect(page.get_by_role("alert")).to_contain_text(words)
    expect(page.get_by_role("button", name="Draw")).to_be_enabled()
    expect(page.locator("li")).to_have_count(0)


def test_an_unreachable_service_is_reported_and_can_be_tried_again(page: Any) -> None:
    page.route("**/v1/images/generations", lambda route: route.abort())
    page.get_by_role("button", name="Draw").click()
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached.")
    page.unroute("**/v1/images/generations")
    draw(page, 1)
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_service_that_did_not_describe_its_model_is_asked_again_before_it_draws(page: Any) -> None:
    page.route("**/v1/models", lambda route: route.abort())
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached.")
    page.get_by_role("button", name="Draw").click()
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached.")
    expect(page.locator("li")).to_have_count(0)
    page.unroute("**/v1/models")
    draw(page, 1)
    # The model's default, not the page's.
    assert read(png_of(page), None).passport.num_steps == 10
    expect(page.get_by_label("Class").locator("option")).to_have_count(4)
    expect(page.get_by_role("alert")).to_be_hidden()


def test_the_keyboard_keeps_its_place(page: Any, server: Server) -> None:
    set_number(page, 1)
    button = page.get_by_role("button", name="Draw", exact=True)
    for number in (1, 2):
        button.press("Enter")
        expect(page.locator("#history button")).to_have_count(number)
        expect(button).to_be_focused()
    older = page.locator("#history button").nth(1)
    older.press("Enter")
    expect(older).to_have_attribute("aria-current", "true")
    expect(older).to_be_focused()
    page.get_by_label("Steps").fill("100")
    set_number(page, 8)
    with busy(server):
        button.press("Enter")
        page.get_by_role("button", name="Stop").press("Enter")
        expect(page.get_by_role("status")).to_have_text("Stopped.")
    expect(button).to_be_focused()


def test_the_page_connects_to_its_own_service_only(browser: Any, server: Server) -> None:
    page, asked = browser.new_page(), set()
    page.on(
        "request", lambda request: asked.add(request.url.split("/")[2] if request.url.startswith("http") else "data")
    )
    page.goto(f"{server.url}/playground")
    expect(page.locator("#model code")).to_be_visible()
    page.close()
    assert asked - {"data"} == {f"127.0.0.1:{server.port}"}


@pytest.mark.parametrize(("scheme", "ground"), [("light", "rgb(244, 243, 239)"), ("dark", "rgb(19, 18, 24)")])
def test_the_page_follows_the_systems_light_and_dark(browser: Any, server: Server, scheme: str, ground: str) -> None:
    page = browser.new_page(color_scheme=scheme)
    page.goto(f"{server.url}/playground")
    expect(page.locator("body")).to_have_css("background-color", ground)
    page.close()
