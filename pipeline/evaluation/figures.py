"""The figures of metrics.json: name, title, meaning, which direction is better, and how a value is printed.

Every page, table and card that shows figures takes them from here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ORIGINS = ("evaluate", "floor", "baseline")
"""Prefixes of figures: of the model, and of equally many real images and images from a mixture of Gaussians."""
BY_ROWS = "frechet_distance_at_{}_rows"
"""The Frechet distance at a number of rows of network calls per image; one figure for each number measured."""
Z = 1.959964
"""Standard normal quantile of a 95 % interval."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure; `<origin>/<name>` is its key in metrics.json, `<origin>/<name>_standard_error` that of its error."""

    title: str
    meaning: str
    better: Literal["lower", "higher", "real"]
    """`real`: the closer to the value of real images the better."""
    is_share: bool = False
    """Whether it is a share of `num_images` images, so that Wilson's interval applies."""
    format: str = ".4g"
    """Format specification of a value."""

    @property
    def label(self) -> str:
        """Title and meaning on one line."""
        return f"{self.title}: {self.meaning}"


LOSSES = "Losses on held-out images"
GROUPS: Mapping[str, Mapping[str, Figure]] = {
    "Similarity to held-out images": {
        "kid": Figure("KID", "kernel distance of the features; 0 within its error for real images", "lower"),
        "frechet_distance": Figure(
            "Frechet distance", "of Gaussians fitted to the features; compare at equal numbers of images only", "lower"
        ),
        "precision": Figure("precision", "share of images that lie among real ones", "higher", is_share=True),
        "recall": Figure("recall", "share of real images that lie among these", "higher", is_share=True),
        "density": Figure("density", "how densely real images surround these", "higher"),
        "coverage": Figure("coverage", "share of real images with one of these near them", "higher", is_share=True),
    },
    "Similarity to all real images": {
        "kid_to_all": Figure(
            "KID to all images",
            "kernel distance to training and held-out images, in the features of EfficientNet-Lite0",
            "lower",
        ),
    },
    "Classes": {
        "class_agreement": Figure(
            "class agreement", "share in which the classifier sees the requested class", "higher", is_share=True
        ),
        "class_total_variation": Figure(
            "class total variation", "share that would have to change class to be balanced as real ones", "lower"
        ),
    },
    "Copies": {
        "near_copy_share": Figure(
            "near-copies", "share suspiciously close to one training image", "real", is_share=True
        ),
        "near_copy_share_shifted": Figure("near-copies, shifted", "the same, moved by up to a pixel", "real"),
        "unique_share": Figure("unique", "share that is no near-copy of an image before it", "real"),
    },
    "Pixels": {
        "sharpness_ratio": Figure(
            "sharpness", "second differences over those of real images: below 1 blurred, above 1 noisy", "real"
        ),
        "black_share": Figure("black", "share of pixel values that are 0", "real"),
    },
    LOSSES: {
        "bits_per_dim": Figure("bits/dim", "variational upper bound on the code length", "lower"),
        "bits_per_dim_prior": Figure("bits/dim, prior", "information left at the last noise level", "lower"),
        "bits_per_dim_diffusion": Figure("bits/dim, diffusion", "the steps between", "lower"),
        "bits_per_dim_decoder": Figure("bits/dim, decoder", "the last step, to bytes", "lower"),
        "mse_over_linear": Figure(
            "error over linear", "over the best linear denoiser's, geometric mean of the levels", "lower"
        ),
        "levels_better_than_linear": Figure("better than linear", "share of the noise levels", "higher"),
        "mse_over_training": Figure(
            "error over training images'", "geometric mean of the levels; above 1 it over-fits", "lower"
        ),
    },
}
"""Figures by name, in the groups and the order of the reports."""

FIGURES: Mapping[str, Figure] = {name: figure for group in GROUPS.values() for name, figure in group.items()}
"""All figures by name."""

CHIEF_FIGURES = (
    "kid_to_all",
    "kid",
    "frechet_distance",
    "precision",
    "recall",
    "coverage",
    "class_agreement",
    "near_copy_share",
    "bits_per_dim",
)
"""Names of the figures that summaries show."""


def title_of(name: str, *, is_distilled: bool) -> str:
    """The title of a figure; for a student, losses are marked as its teacher's."""
    return f"{FIGURES[name].title} (its teacher's)" if is_distilled and name in GROUPS[LOSSES] else FIGURES[name].title


def distances_by_rows(metrics: Mapping[str, float]) -> list[tuple[int, float, float]]:
    """Rows of network calls per image, the Frechet distance at that cost, and that of equally many real images."""
    pattern = re.compile("evaluate/" + BY_ROWS.format(r"(\d+)"))
    numbers = sorted(int(match[1]) for name in metrics if (match := pattern.fullmatch(name)))
    keys = {number: BY_ROWS.format(number) for number in numbers}
    return [(number, metrics[f"evaluate/{key}"], metrics[f"floor/{key}"]) for number, key in keys.items()]


def chief_table(metrics: Mapping[str, float], *, is_distilled: bool) -> str:
    """The chief figures of the model, of equally many real images and of the mixture of Gaussians, as a Markdown table."""
    rows = ["| | model | real images | mixture of Gaussians |", "|---|---|---|---|"]
    for name in CHIEF_FIGURES:
        if f"evaluate/{name}" in metrics:
            values = (metrics.get(f"{origin}/{name}") for origin in ORIGINS)
            cells = ("" if value is None else format(value, FIGURES[name].format) for value in values)
            rows.append(f"| {title_of(name, is_distilled=is_distilled)} | {' | '.join(cells)} |")
    return "\n".join(rows)
