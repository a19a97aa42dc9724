"""The documentation as a site: it builds without warnings, and in a browser no page asks anybody for anything."""

import functools
import os
import shutil
import subprocess
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class SilentHandler(SimpleHTTPRequestHandler):
    """Serves files and writes no log."""

    def log_message(self, *_: object) -> None:
        pass


def pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in pages(part)]


NAV = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="mkdocs is in the docs extra")
    folder = tmp_path_factory.mktemp("site")
    # `strict` makes an error of every link that leads nowhere.
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_in_the_navigation_and_on_the_site(site: Path) -> None:
    written = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert written | {"api.md"} == set(NAV)
    assert all((site / page).with_suffix(".html").is_file() for page in NAV)


def test_the_page_about_the_api_has_every_path(site: Path) -> None:
    page = (site / "api.html").read_text()
    for path in ("/v1/images/generations", "/v1/images/cancel", "/v1/models", "/readyz"):
        assert path in page


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to look at the pages with")
def test_pages_and_search_ask_no_other_host(site: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is in the e2e extra")
    asked: list[str] = []
    serve = functools.partial(SilentHandler, directory=site)
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server, playwright.sync_playwright() as driver:
        # Root has no sandbox; the pages are ours.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)
        page.on("request", lambda request: asked.append(request.url))
        Thread(target=server.serve_forever, daemon=True).start()
        home = f"http://127.0.0.1:{server.server_port}"
        for name in ("index", "first-hour", "serving", "forward-process"):
            page.goto(f"{home}/{name}.html")
            assert page.locator("h1").first.is_visible()
        page.locator(".md-search__input").fill("guidance_interval")
        page.locator(".md-search-result__item").first.wait_for()
        browser.close()
        server.shutdown()
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith((home, "data:", "blob:"))] == []
