"""Pages of other origins, and pages that reach the service under a name of their own, in a real browser."""

import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.service.conftest import write_model
from tests.service.server import GENERATIONS, Server, free_port, serving

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
KEY = "a key for the test"
REBOUND = "rebound.test"
"""A name that resolves to this machine, as an attacker's DNS server can make its own name do."""
GUIDANCE = 1.27
"""A model's default that no slider has as a step."""

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is in the e2e extra")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

ASK = """
async ([url, key]) => {
  try {
    const response = await fetch(url, {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${key}`, "X-Request-ID": "page-1" },
      body: JSON.stringify({ steps: 2, seed: 3 }),
    });
    const body = await response.json();
    return [response.status, response.headers.get("X-Request-ID"), body.error?.code ?? body.data[0].seed];
  } catch (error) { return [0, null, error.name]; }
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@contextmanager
def pages(port: int) -> Iterator[str]:
    """An origin with an empty page."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{port}"
        site.shutdown()


@pytest.fixture(scope="module")
def origins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str, str]]:
    """A service with a key, an origin that may call it, and one that may not."""
    with pages(free_port()) as allowed, pages(free_port()) as other:
        home = tmp_path_factory.mktemp("origins")
        model = write_model(home / "model", guidance_scale=GUIDANCE)
        with serving(
            model, home, FOUNDRY_API_KEYS=KEY, FOUNDRY_CORS_ORIGINS=f"https://app.example, {allowed}"
        ) as server:
            yield server, allowed, other


def _ask(browser: Any, page_url: str, server: Server, key: str = KEY) -> list[Any]:
    page = browser.new_page()
    page.goto(page_url)
    answer = page.evaluate(ASK, [f"{server.url}{GENERATIONS}", key])
    page.close()
    return list(answer)


def test_a_page_of_an_allowed_origin_draws_and_reads_headers(origins: tuple[Server, str, str], browser: Any) -> None:
    server, allowed, _ = origins
    assert _ask(browser, allowed, server) == [200, "page-1", 3]


def test_a_page_of_an_allowed_origin_reads_errors(origins: tuple[Server, str, str], browser: Any) -> None:
    server, allowed, _ = origins
    assert _ask(browser, allowed, server, key="wrong") == [401, "page-1", "invalid_api_key"]


def test_a_page_of_another_origin_gets_nothing(origins: tuple[Server, str, str], browser: Any, server: Server) -> None:
    with_origins, allowed, other = origins
    assert _ask(browser, other, with_origins) == [0, None, "TypeError"]
    assert _ask(browser, allowed, server) == [0, None, "TypeError"]


def test_a_page_whose_name_resolves_to_this_machine_gets_nothing(browser: Any, server: Server) -> None:
    page = browser.new_page()
    page.goto(f"http://{REBOUND}:{server.port}/playground")
    answer = page.evaluate(ASK, [GENERATIONS, "any"])
    page.close()
    assert answer == [403, "page-1", "host_not_allowed"]


def test_the_playground_draws_with_the_models_own_guidance(origins: tuple[Server, str, str], browser: Any) -> None:
    server, _, _ = origins
    page = browser.new_page()
    asked: list[dict[str, Any]] = []
    page.on("request", lambda request: asked.append(request.post_data_json) if request.method == "POST" else None)
    page.goto(f"{server.url}/playground")
    # The page opens the field when the service asks for a key.
    page.get_by_label("Kept only by this page").fill(KEY)
    page.get_by_label("Kept only by this page").press("Tab")
    playwright.expect(page.locator("#model code")).to_be_visible()
    page.get_by_label("Class").select_option("dog")
    for move, guidance in ((False, GUIDANCE), (True, 3)):
        if move:
            page.get_by_label("Guidance").fill("3")
        assert page.get_by_label("Guidance").get_attribute("aria-valuetext") == str(guidance)
        page.get_by_label("Number of images").fill("1")
        page.get_by_role("button", name="Draw").click()
        page.locator("li[data-done]").first.wait_for()
        assert asked[-1]["guidance_scale"] == guidance
    page.close()
    assert (asked[0]["steps"], asked[0]["sampler"]) == (10, "dpmpp_2m")
