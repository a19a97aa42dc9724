"""The playground in a real browser: what its tests do again and again."""

import base64
import shutil
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TIMEOUT_MS = 60_000

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is in the e2e extra")
expect = playwright.expect
expect.set_options(timeout=TIMEOUT_MS)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


def set_number(page: Any, number: int) -> None:
    page.get_by_label("Number of images").fill(str(number))


def draw(page: Any, number: int) -> None:
    """Draw and wait for all images."""
    set_number(page, number)
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("li[data-done]")).to_have_count(number)


def png_of(page: Any, number: int = 0) -> bytes:
    source = page.get_by_role("img").nth(number).get_attribute("src")
    return base64.b64decode(source.removeprefix("data:image/png;base64,"))


def seeds(page: Any) -> list[str]:
    return list(page.locator(".seed").all_text_contents())
