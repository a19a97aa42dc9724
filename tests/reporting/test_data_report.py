from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.ingestion.manifest import build_manifest, join, to_frame
from pipeline.ingestion.validation import ExpectationResult, ValidationReport
from pipeline.reporting.data_report import write_report

HOSTILE = "<script>alert('x')</script>&amp;\".png"


def pixels(size: int) -> Callable[[Iterable[int]], NDArray[np.uint8]]:
    def read(positions: Iterable[int]) -> NDArray[np.uint8]:
        return np.stack([np.random.default_rng(at).integers(0, 256, (size, size, 3), np.uint8) for at in positions])

    return read


def found(number: int, **more: Any) -> dict[str, Any]:
    accepted = {"state": "accepted", "width": 64, "height": 48, "mode": "RGB", "mean": 9.0, "std": 50.0}
    identity = {"file": f"{number:05}.png", "num_bytes": 9, "pixels_sha256": f"{number:064x}"}
    return {**identity, **accepted, **more}


def broken(file: str, reason: str) -> dict[str, Any]:
    return {"file": file, "state": "quarantined", "reason": reason, "num_bytes": 9}


def table_of(*rows: dict[str, Any]) -> tuple[pd.DataFrame, tuple[str, ...] | None]:
    return build_manifest(join([to_frame(rows)]), None, 0.2)


def validation(table: pd.DataFrame) -> ValidationReport:
    checks = {
        "num_images": ExpectationResult(success=True, observed=1234567, wanted="at least 2"),
        "broken_share": ExpectationResult(success=False, observed=0.0125, wanted="at most 0.01"),
        "odd": ExpectationResult(success=False, observed=None, wanted="0", error="<no column>"),
    }
    quarantined = int((table["state"] == "quarantined").sum())
    counts = {"found": len(table), "train": 8, "held_out": 2, "quarantined": quarantined, "duplicates": 1}
    return ValidationReport(checks, counts)


def page(folder: Path, *rows: dict[str, Any], size: int = 8, quarantined_bytes: dict[str, bytes] | None = None) -> str:
    table, names = table_of(*rows)
    write_report(folder / "report.html", table, names, validation(table), pixels(size), quarantined_bytes or {})
    return (folder / "report.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """Text, table rows, tags and links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in {"src", "href", "srcset", "data", "action"}]
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag != "td"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.in_cell:
            self.rows[-1][-1] += data.strip()


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    text = page(tmp_path, *(found(number, class_name="cat") for number in range(9)), broken("a.png", "empty file"))
    seen = Page(text)
    assert not {"script", "link", "iframe", "object", "form"} & set(seen.tags)
    assert seen.links
    assert all(link.startswith("data:image/") for link in seen.links)
    assert not re.search(r"url\(|@import|https?://", text)


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    rows = [found(number, file=f"{number}{HOSTILE}", class_name=f"{number % 2}{HOSTILE}") for number in range(6)]
    seen = Page(page(tmp_path, *rows, broken(HOSTILE, HOSTILE)))
    assert "script" not in seen.tags
    assert seen.text.count(HOSTILE) >= 4


def test_checks_are_shown_with_the_found_and_the_required_value(tmp_path: Path) -> None:
    text = Page(page(tmp_path, *(found(number) for number in range(9)))).text
    for part in ("checks failed", "number of images", "1,234,567", "0.0125", "at most 0.01", "<no column>"):
        assert part in text


def test_every_class_is_shown_with_its_number_of_images(tmp_path: Path) -> None:
    rows = [found(number, class_name="cat" if number < 7 else "dog") for number in range(9)]
    seen = Page(page(tmp_path, *rows))
    cells = {row[0]: row[2:] for row in seen.rows if row and row[0] in {"cat", "dog"}}
    assert {name: sum(map(int, counts)) for name, counts in cells.items()} == {"cat": 7, "dog": 2}
    assert seen.tags.count("img") == 9


def test_quarantined_images_are_shown_if_they_can_be_decoded(tmp_path: Path, photos: dict[str, Image.Image]) -> None:
    buffer = io.BytesIO()
    photos["china"].save(buffer, "PNG")
    rows = [
        *(found(number) for number in range(5)),
        broken("half.png", "damaged: it ends"),
        broken("no.png", "empty file"),
    ]
    before = Page(page(tmp_path, *rows)).tags.count("img")
    seen = Page(page(tmp_path, *rows, quarantined_bytes={"half.png": buffer.getvalue()[:200_000], "no.png": b""}))
    assert seen.tags.count("img") == before + 1
    for part in ("half.png", "damaged: it ends", "no.png", "empty file"):
        assert part in seen.text


def test_duplicates_are_shown_as_groups(tmp_path: Path) -> None:
    rows = [found(0), found(1), *(found(number, pixels_sha256="f" * 64) for number in range(2, 10))]
    text = Page(page(tmp_path, *rows)).text
    assert "8 images with the same pixels" in text
    assert "00002.png, 00003.png, 00004.png, 00005.png, 00006.png, 00007.png, …" in text


def test_many_sizes_are_shown_as_octaves_of_the_shorter_side(tmp_path: Path) -> None:
    rows = [found(number, width=30 + number, height=1000) for number in range(40)]
    many = Page(page(tmp_path, *rows)).rows
    assert ["shorter side 16 – 31", "", "2"] in many
    assert ["shorter side 64 – 127", "", "6"] in many
    assert ["64 × 48", "", "9"] in Page(page(tmp_path, *(found(number) for number in range(9)))).rows


def test_brightness_is_counted_in_bins_of_16(tmp_path: Path) -> None:
    rows = Page(
        page(tmp_path, *(found(number, mean=mean) for number, mean in enumerate([0.0, 15.9, 16.0, 255.0])))
    ).rows
    assert ["0 – 15", "", "2"] in rows
    assert ["16 – 31", "", "1"] in rows
    assert ["240 – 255", "", "1"] in rows


def test_thumbnails_are_the_images_themselves(tmp_path: Path) -> None:
    seen = Page(page(tmp_path, *(found(number) for number in range(3))))
    shown = {base64.b64decode(link.partition(",")[2]) for link in seen.links}
    images = {np.asarray(Image.open(io.BytesIO(content))).tobytes() for content in shown}
    assert images == {image.tobytes() for image in pixels(8)(range(3))}


@pytest.mark.parametrize("size", [8, 32, 512])
def test_the_page_of_a_large_set_is_small_enough_to_mail(tmp_path: Path, size: int) -> None:
    rows = [found(number, class_name=f"class {number % 60:02}") for number in range(60 * 15)]
    damaged = [broken(f"{number}.png", "damaged") for number in range(500)]
    repeated = [
        found(number, pixels_sha256=f"{number // 2:064x}", class_name="class 00") for number in range(900, 1000)
    ]
    text = page(tmp_path, *rows, *damaged, *repeated, size=size)
    assert len(text.encode()) < 2 * 2**20
    for part in ("The first 24 of 60 classes", "The first 24 of 500", "The 12 largest of 50 groups"):
        assert part in text


def test_a_set_without_accepted_images_has_a_page(tmp_path: Path) -> None:
    assert "empty file" in page(tmp_path, broken("a.png", "empty file"))


def test_the_page_is_reproducible(tmp_path: Path) -> None:
    rows = [found(number, class_name=f"{number % 3}") for number in range(50)]
    assert page(tmp_path, *rows) == page(tmp_path, *rows)
