"""report.html of the prepared data: one self-contained page, the same for the same data.

It shows the checks, every class, every kind of trouble, and how the sources are made; no scripts, nothing loaded from
anywhere, no time stamps.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from pipeline.artefacts.files import replacing
from pipeline.ingestion.decode import salvage
from pipeline.ingestion.validation import ValidationReport

if TYPE_CHECKING:
    Pixels = Callable[[Iterable[int]], NDArray[np.uint8]]
    """Prepared images by the manifest's column `spool_index`."""

NUM_CLASSES, NUM_A_CLASS, NUM_UNLABELLED = 24, 14, 84
NUM_QUARANTINED, NUM_GROUPS, NUM_SOURCES, NUM_BARS = 24, 12, 6, 10
THUMBNAIL_SIZE = 64
"""Pixels; larger images are shown reduced, so that the page stays below 2 MB."""
BAR_WIDTH, HISTOGRAM_HEIGHT, NUM_BINS = 440, 110, 32


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A picture inside of the page."""

    uri: str
    caption: str
    small: bool
    """Shown larger than it is, with sharp pixels."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of a bar chart: numbers of images, and their widths in the drawing."""

    name: str
    parts: tuple[int, ...]
    widths: tuple[float, ...]


def write_report(
    path: Path,
    manifest: pd.DataFrame,
    class_names: Sequence[str] | None,
    validation: ValidationReport,
    pixels: Pixels,
    quarantined_bytes: Mapping[str, bytes],
) -> None:
    """Write the page; `quarantined_bytes` holds the content of quarantined files by source, as far as it was kept."""
    accepted = manifest[manifest["state"] == "accepted"]
    duplicates = _duplicates(accepted)
    page = _template().render(
        validation=validation,
        num_classes=len(class_names or ()),
        class_bars=_class_bars(accepted, class_names or ()),
        groups=_groups(accepted, class_names, pixels),
        quarantined=_quarantined(manifest, quarantined_bytes),
        duplicates=[_duplicate_group(group, pixels) for group in duplicates[:NUM_GROUPS]],
        num_duplicate_groups=len(duplicates),
        size_bars=_sizes(accepted),
        mode_bars=_counted(accepted["mode"]),
        histogram=_histogram(accepted["mean"].to_numpy()),
    )
    with replacing(path) as partial:
        partial.write_text(page.rstrip() + "\n", encoding="utf-8")


def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["thousands"] = "{:,}".format
    environment.filters["figure"] = _figure
    return environment.get_template("data.html")


def _figure(value: float | None) -> str:
    """A number for reading: 70,000 or 0.0125."""
    return "nothing" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def _thumbnail(image: NDArray[np.uint8], caption: str) -> Thumbnail:
    """Small images as they are, in PNG; larger ones reduced, in JPEG."""
    small = image.shape[0] <= THUMBNAIL_SIZE // 2
    picture = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
    picture.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG" if small else "JPEG", **({"optimize": True} if small else {"quality": 85}))
    content = base64.b64encode(buffer.getvalue()).decode()
    return Thumbnail(f"data:image/{'png' if small else 'jpeg'};base64,{content}", caption, small)


def _bars(rows: Sequence[tuple[str, tuple[int, ...]]]) -> list[Bar]:
    longest = max((sum(parts) for _, parts in rows), default=0) or 1
    return [Bar(name, parts, tuple(round(part * BAR_WIDTH / longest, 1) for part in parts)) for name, parts in rows]


def _counted(names: pd.Series[str]) -> list[Bar]:
    """The commonest first."""
    counts = sorted(names.value_counts().items(), key=lambda item: (-item[1], str(item[0])))
    return _bars([(str(name), (int(count),)) for name, count in counts])


def _sizes(accepted: pd.DataFrame) -> list[Bar]:
    """Each size, or, where these are many, octaves of the shorter side."""
    sizes = accepted["width"].astype("str") + " × " + accepted["height"].astype("str")
    if sizes.nunique() <= NUM_BARS:
        return _counted(sizes)
    octaves = np.log2(accepted[["width", "height"]].min(axis=1).to_numpy(dtype="float64")).astype(int)
    counts = zip(*np.unique(octaves, return_counts=True), strict=True)
    return _bars([(f"shorter side {2**low:,} – {2 ** (low + 1) - 1:,}", (int(count),)) for low, count in counts])


def _class_bars(accepted: pd.DataFrame, class_names: Sequence[str]) -> list[Bar]:
    counts = accepted.groupby(["class_name", "split"]).size().to_dict()
    return _bars(
        [
            (name, (int(counts.get((name, "train"), 0)), int(counts.get((name, "held_out"), 0))))
            for name in class_names[:NUM_CLASSES]
        ]
    )


def _groups(accepted: pd.DataFrame, class_names: Sequence[str] | None, pixels: Pixels) -> list[dict[str, Any]]:
    """Some images of each class, or of all; which ones, their digests say."""
    shuffled = accepted.sort_values(["pixels_sha256", "source"])
    if class_names is None:
        chosen = {"": shuffled.head(NUM_UNLABELLED)}
    else:
        chosen = {
            name: shuffled[shuffled["class_name"] == name].head(NUM_A_CLASS) for name in class_names[:NUM_CLASSES]
        }
    return [{"name": name, "thumbnails": _thumbnails(rows, pixels)} for name, rows in chosen.items() if len(rows)]


def _thumbnails(rows: pd.DataFrame, pixels: Pixels) -> list[Thumbnail]:
    images = pixels(rows["spool_index"].tolist())
    return [_thumbnail(image, source) for image, source in zip(images, rows["source"], strict=True)]


def _quarantined(manifest: pd.DataFrame, quarantined_bytes: Mapping[str, bytes]) -> list[dict[str, Any]]:
    rows = manifest[manifest["state"] == "quarantined"].head(NUM_QUARANTINED)
    return [
        {"source": source, "reason": reason, "thumbnail": _salvaged(source, quarantined_bytes.get(source))}
        for source, reason in zip(rows["source"], rows["reason"], strict=True)
    ]


def _salvaged(source: str, content: bytes | None) -> Thumbnail | None:
    image = None if content is None else salvage(content, THUMBNAIL_SIZE)
    return None if image is None else _thumbnail(image, source)


def _duplicates(accepted: pd.DataFrame) -> list[pd.DataFrame]:
    """Groups of images with equal pixels, the largest first."""
    repeated = accepted[accepted["pixels_sha256"].isin(accepted.loc[accepted["duplicate_of"].notna(), "pixels_sha256"])]
    groups = [group for _, group in repeated.groupby("pixels_sha256", sort=True)]
    return sorted(groups, key=len, reverse=True)


def _duplicate_group(group: pd.DataFrame, pixels: Pixels) -> dict[str, Any]:
    return {
        "num_images": len(group),
        "sources": group["source"].head(NUM_SOURCES).tolist(),
        "thumbnail": _thumbnails(group.head(1), pixels)[0],
    }


def _histogram(means: NDArray[np.float64]) -> list[float]:
    """Heights of the bars, over 0 … 255."""
    counts, _ = np.histogram(means, bins=NUM_BINS, range=(0, 255))
    return [round(HISTOGRAM_HEIGHT * count / max(counts.max(), 1), 1) for count in counts.tolist()]
