"""Are new images, or new requests, still like the training images? Exit code 3: no.

    foundry data drift incoming/ --source images
    foundry data drift requests.jsonl requests.jsonl.1

A folder holds raw data of the kind `prepare.source`, prepared as params.yaml says; files are request logs of the
service, of which the classes asked for are compared.

Reads: data/prepared, data/features
Writes: drift.json, drift.html
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.artefacts.files import write_json
from pipeline.errors import CheckFailedError, FoundryError
from pipeline.params import PrepareParams, load_params
from pipeline.reporting.drift import Drift, Training, drift_of_images, drift_of_requests, open_training
from pipeline.reporting.image_set import raw_images
from pipeline.reporting.pages import write_page


def main(
    new: Sequence[Path],
    prepared: Path,
    features: Path,
    out: Path,
    *,
    source: str | None,
    unlabelled: bool,
    alpha: float,
    seed: int,
) -> None:

    params = load_params().prepare
    changes = {"source": source or params.source, "labelled": params.labelled and not unlabelled}
    training = open_training(prepared, features, seed)
    found = drift(training, new, params.model_copy(update=changes), alpha=alpha, seed=seed)
    page = write(out, found)
    sys.stdout.write(f"{page.resolve()}\n")
    if found.found:
        raise CheckFailedError("\n".join(_finding(out / "drift.json", found)))


def drift(training: Training, new: Sequence[Path], params: PrepareParams, *, alpha: float, seed: int) -> Drift:
    """Compare what is new with the training images.

    Raises:
        FoundryError: it is not there, or of another kind.

    """
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
