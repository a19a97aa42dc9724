"""Measure how well copies of training images are found among honest ones: rates at the detector's threshold, and the ROC.

    python -m benchmarks.copies --out benchmarks/results/copies.json

Real images that no one trained on stand for honest samples; among them are copies of training images, changed in one way
each. The sets are scikit-learn's digits (8x8, grey) and tiles of its two photographs (40x40, colour), which are averaged
down as all larger images are. The threshold is that of the stage `features`: the closeness below which one of a
hundred other held-out images lies.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits, load_sample_images
from sklearn.metrics import roc_auc_score, roc_curve

from benchmarks.protocol import finish, parser, table
from pipeline.artefacts.dataset import Split
from pipeline.evaluation.copies import near_copy_threshold, nearest, shifted_near_copy_share

Images = NDArray[np.uint8]
TILE = 40
NUM_COPIES = 100
NOISE = 0.1
"""Standard deviation of added noise, as a share of the range of pixels."""
FALSE_ALARMS = (0.01, 0.05)


def changes(random: np.random.Generator) -> Mapping[str, Callable[[Images], Images]]:
    """What is done to a copy, by its name."""

    def noisy(images: Images) -> Images:
        changed: Images = np.clip(images + random.normal(0, 255 * NOISE, images.shape), 0, 255).astype(np.uint8)
        return changed

    def recoloured(images: Images) -> Images:
        changed: Images = np.clip(0.8 * images[..., ::-1] + 25.0, 0, 255).astype(np.uint8)
        return changed

    return {
        "exact": lambda images: images,
        "shifted by a pixel": lambda images: np.roll(images, 1, axis=2),
        "mirrored": lambda images: np.flip(images, axis=2).copy(),
        f"{NOISE:.0%} noise": noisy,
        "recoloured": recoloured,
    }


def sets() -> Mapping[str, Images]:
    """The images of each set, uint8 `[n, height, width, channels]`."""
    digits = np.round(load_digits().data * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    return {"digits, 8x8 grey": digits, f"tiles, {TILE}x{TILE} colour": np.stack(list(_tiles()))}


def _tiles() -> Iterator[Images]:
    for photograph in load_sample_images().images:
        height, width, _ = photograph.shape
        for top in range(0, height - TILE + 1, TILE):
            for left in range(0, width - TILE + 1, TILE):
                yield photograph[top : top + TILE, left : left + TILE]


def main() -> None:
    arguments = parser("copies", __doc__).parse_args()
    count = 10 if arguments.quick else NUM_COPIES
    results = [row for name, images in sets().items() for row in measure(name, images, count)]
    finish(arguments, {"num_copies": count, "results": results}, report(results))


def measure(name: str, images: Images, count: int) -> Iterator[dict[str, Any]]:
    """Plant copies of each kind and search them, as they are and by the closest of nine shifts."""
    random = np.random.default_rng(0)
    images = images[random.permutation(len(images))]
    # Half to train on, a sixth for the threshold, the others are honest samples.
    train, reference, honest = np.split(images, [len(images) // 2, 2 * len(images) // 3])
    split, copied = Split((train,), None), train[:count]
    threshold = near_copy_threshold(nearest(reference, split))
    of_honest = nearest(honest, split).closeness.numpy()
    shifted_alarms = shifted_near_copy_share(honest, split, threshold)
    for kind, change in changes(random).items():
        copies = change(copied)
        of_copies = nearest(copies, split).closeness.numpy()
        is_copy = np.repeat([False, True], [len(of_honest), count])
        scores = -np.concatenate([of_honest, of_copies])
        alarms, found, _ = roc_curve(is_copy, scores)
        yield {
            "images": name,
            "num_honest": len(honest),
            "copies": kind,
            "false_alarms": float((of_honest < threshold).mean()),
            "found": float((of_copies < threshold).mean()),
            "false_alarms_shifted": shifted_alarms,
            "found_shifted": shifted_near_copy_share(copies, split, threshold),
            "area": float(roc_auc_score(is_copy, scores)),
            "found_at": {str(rate): float(found[alarms <= rate].max()) for rate in FALSE_ALARMS},
        }


def report(results: Sequence[Mapping[str, Any]]) -> str:
    """One row for each set and kind of copy."""
    columns = ["images", "copies", "false alarms", "found", "false alarms, nine shifts", "found, nine shifts"]
    columns += ["area under the ROC", *(f"found at {rate:.0%} false alarms" for rate in FALSE_ALARMS)]
    keys = ("images", "copies", "false_alarms", "found", "false_alarms_shifted", "found_shifted", "area")
    return table(columns, [(*(each[key] for key in keys), *each["found_at"].values()) for each in results])


if __name__ == "__main__":
    main()
