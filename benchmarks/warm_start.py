"""Measure what a training that begins with the champion's weights is worth when a tenth more images have come.

    python -m benchmarks.warm_start --pool .foundry/warm-pool --out benchmarks/results/warm_start.json

For each seed a champion is trained on ten elevenths of scikit-learn's digits. Then all of them are there: a model is trained
from random weights, and others begin with the champion's and see a share of the images, with a share of the learning
rates. All are tuned, sampled and measured against the same held-out images, as the gate does it, and compared in pairs: a
training and the one from random weights that has the same champion and seed. A stopped run continues from --pool.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t

from benchmarks.pool import Pool
from benchmarks.protocol import finish, log_progress, parser, save, table
from pipeline.artefacts.dataset import Split
from pipeline.artefacts.model import Model
from pipeline.params import Params

NUM_OLD, NUM_ALL = 10, 11
"""Of every NUM_ALL images the champion was trained on the first NUM_OLD."""
SCRATCH, CHAMPION = "random weights", "the champion itself"
BEGUN: Mapping[str, tuple[float, float]] = {
    f"{share:.0%} of the length, learning rates x {ratio:g}": (share, ratio)
    for share, ratio in ((0.25, 1.0), (0.25, 0.25), (0.1, 0.25))
}
"""Share of the training's length and of its learning rates, by the name of the arm."""


def main() -> None:
    made = parser("warm_start", __doc__)
    made.add_argument("--pool", type=Path, required=True, metavar="FOLDER", help="results, kept between runs")
    made.add_argument("--seeds", type=int, default=10, help="champions (default: %(default)s)")
    made.add_argument(
        "--num-images", type=int, default=12_800, help="length of a whole training (default: %(default)s)"
    )
    arguments = made.parse_args()
    torch.set_num_threads(1)
    seeds, num_images = (2, 1280) if arguments.quick else (arguments.seeds, arguments.num_images)
    pool = Pool(arguments.pool)
    pool.prepare()
    results = [measure(pool, num_images, seed) for seed in range(seeds)]
    document = {"num_seeds": seeds, "num_images": num_images, "arms": list(arms(results))}
    finish(arguments, {**document, "results": results}, report(document))


def measure(pool: Pool, num_images: int, seed: int) -> dict[str, dict[str, float]]:
    """KID and seconds of training of each arm, with one champion."""
    path = pool.folder / f"warm-{num_images}-{seed}.json"
    found: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.exists() else {}
    if set(found) >= {SCRATCH, CHAMPION, *BEGUN}:
        return found
    everything = pool.dataset.split("train")
    old = part(everything, np.flatnonzero(np.arange(len(everything)) % NUM_ALL < NUM_OLD))
    champion = pool.tuned(pool.trained(pool.params_of(num_images, seed), old))
    found[CHAMPION] = figures(pool, champion, 0.0)
    # Another seed than the champion's: nothing but its weights is to be like it.
    params = pool.params_of(num_images, 1000 + seed)
    trained = pool.trained(params, everything)
    found[SCRATCH] = figures(pool, pool.tuned(trained), trained.seconds)
    for name, (share, ratio) in BEGUN.items():
        trained = pool.trained(beginning_with(champion, params, share, ratio), everything, champion)
        found[name] = figures(pool, pool.tuned(trained), trained.seconds)
    save(path, found)
    log_progress(f"seed {seed}: " + ", ".join(f"{name} {each['kid']:.4f}" for name, each in found.items()))
    return found


def part(split: Split, rows: NDArray[np.int64]) -> Split:
    """The images of a split at `rows`."""
    return Split((split.images(rows),), None if split.labels is None else split.labels[rows])


def beginning_with(champion: Model, params: Params, share: float, ratio: float) -> Params:
    """The params of a training that has the champion for its ancestor."""
    update = {"digest": champion.digest, "train_share": share, "learning_rate_ratio": ratio}
    return params.model_copy(update={"ancestor": params.ancestor.model_copy(update=update)})


def figures(pool: Pool, model: Model, seconds: float) -> dict[str, float]:
    return {"kid": pool.measured(model, seconds).figures["kid"], "seconds": seconds}


def arms(results: Sequence[Mapping[str, Mapping[str, float]]]) -> Iterator[dict[str, Any]]:
    """Each arm's mean KID, its difference from random weights with a 95 % interval over champions, and its time."""
    for name in (SCRATCH, CHAMPION, *BEGUN):
        differences = [each[name]["kid"] - each[SCRATCH]["kid"] for each in results]
        error = stdev(differences) / len(differences) ** 0.5
        yield {
            "arm": name,
            "kid": fmean(each[name]["kid"] for each in results),
            "difference": fmean(differences),
            "half_interval": float(t.ppf(0.975, len(differences) - 1)) * error,
            "time_ratio": fmean(each[name]["seconds"] / each[SCRATCH]["seconds"] for each in results),
        }


def report(document: Mapping[str, Any]) -> str:
    rows = [tuple(each.values()) for each in document["arms"]]
    return table(["training", "KID", "minus that of random weights", "± (95 %)", "times its time"], rows)


if __name__ == "__main__":
    main()
