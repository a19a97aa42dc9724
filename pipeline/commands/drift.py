"""Are new images, or new requests, still like the training images? Exit code 3: no.

    python -m pipeline.commands.drift incoming/ --source images
    python -m pipeline.commands.drift requests.jsonl requests.jsonl.1

A folder holds raw data of the kind `prepare.source`, prepared as params.yaml says; files are request logs of the
service, of which the classes asked for are compared.

Reads: data/prepared, data/features
Writes: drift.json, drift.html
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import command
from pipeline.errors import CheckFailedError, FoundryError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.params import PrepareParams
    from pipeline.reporting.drift import Drift, Training


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.commands.drift",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("new", type=Path, nargs="+", help="a folder of raw data, or request logs")
    parser.add_argument("--source", choices=("idx", "images", "archive", "arrays"), help="default: prepare.source")
    parser.add_argument("--unlabelled", action="store_true", help="the new images have no classes")
    parser.add_argument("--prepared", type=Path, default=Path("data/prepared"), help="default: %(default)s")
    parser.add_argument("--features", type=Path, default=Path("data/features"), help="default: %(default)s")
    parser.add_argument("--alpha", type=_share, default=0.01, help="chance of a false alarm, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of samples and permutations, default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("data/drift"), help="default: %(default)s")
    arguments = parser.parse_args()
    from pipeline.params import load_params
    from pipeline.reporting.drift import open_training

    params = load_params().prepare
    changes = {"source": arguments.source or params.source, "labelled": params.labelled and not arguments.unlabelled}
    training = open_training(arguments.prepared, arguments.features, arguments.seed)
    settings = {"alpha": arguments.alpha, "seed": arguments.seed}
    found = drift(training, arguments.new, params.model_copy(update=changes), **settings)
    page = write(arguments.out, found)
    sys.stdout.write(f"{page.resolve()}\n")
    if found.found:
        raise CheckFailedError("\n".join(_finding(arguments.out / "drift.json", found)))


def drift(training: Training, new: Sequence[Path], params: PrepareParams, *, alpha: float, seed: int) -> Drift:
    """Compare what is new with the training images.

    Raises:
        FoundryError: it is not there, or of another kind.

    """
    from pipeline.reporting.drift import drift_of_images, drift_of_requests
    from pipeline.reporting.image_set import raw_images

    if len(new) > 1 or new[0].is_file():
        return drift_of_requests(training, requests(new), alpha=alpha, seed=seed)
    found, wanted = (params.image_size, params.channels), training.shape
    if found != wanted:
        raise FoundryError(f"params.yaml: prepare makes size and channels {found}, the prepared images have {wanted}")
    with raw_images(new[0], params) as images:
        return drift_of_images(training, images, alpha=alpha, seed=seed)


def requests(logs: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The lines of request logs; one that is torn, as the last of a killed service may be, is left out.

    Raises:
        FoundryError: a file is missing, or holds no requests.

    """
    for path in logs:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise FoundryError(f"{path}: not a readable request log: {error}") from None
        found = [request for line in lines if (request := _request(line)) is not None]
        if lines and not found:
            raise FoundryError(f"{path}: found no request, wanted a JSON object with class_label a line")
        yield from found


def write(out: Path, found: Drift) -> Path:
    """Write drift.json and drift.html; returns the page."""
    from pipeline.artefacts.files import write_json
    from pipeline.reporting.pages import write_page

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "drift.json", found.document())
    write_page(out / "drift.html", "drift.html", it=found)
    return out / "drift.html"


def _request(line: str) -> dict[str, Any] | None:
    try:
        request = json.loads(line)
    except ValueError:
        return None
    label = request.get("class_label", "") if isinstance(request, dict) else ""
    return request if label is None or type(label) is int else None


def _finding(path: Path, found: Drift) -> Iterator[str]:
    for verdict in found.found:
        test = verdict.test
        yield f"{path}: {test.name}: found a difference of {test.value:.4g} (p {verdict.corrected:.2g}), wanted chance"


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"should be between 0 and 1 (got {text})")
    return value


if __name__ == "__main__":
    command.run(main)
