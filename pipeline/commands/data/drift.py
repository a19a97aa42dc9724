"""`foundry data drift`: test whether new images, or requests, still have the distribution of the training images.

Reads: data/prepared, data/features
Writes: drift.json, drift.html
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.artefacts.files import write_json
from pipeline.errors import CheckFailedError, FoundryError
from pipeline.params import load_params
from pipeline.reporting.drift import drift_of_images, drift_of_requests, read_reference
from pipeline.reporting.image_set import open_raw
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
    reference = read_reference(prepared, features, seed)
    if len(new) > 1 or new[0].is_file():
        drift = drift_of_requests(reference, read_requests(new), alpha=alpha, seed=seed)
    else:
        params = load_params().prepare
        changes = {"source": source or params.source, "labelled": params.labelled and not unlabelled}
        found, wanted = params.image_shape, reference.shape
        if found != wanted:
            raise FoundryError(
                f"params.yaml: prepare makes images of height, width, channels {found}, the prepared images have {wanted}"
            )
        with open_raw(new[0], params.model_copy(update=changes)) as images:
            drift = drift_of_images(reference, images, alpha=alpha, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "drift.json", drift.document())
    write_page(out / "drift.html", "drift.html", it=drift)
    sys.stdout.write(f"{(out / 'drift.html').resolve()}\n")
    if drift.alarms:
        raise CheckFailedError(
            "\n".join(
                f"{out / 'drift.json'}: {alarm.test.name}: found a difference of {alarm.test.value:.4g} "
                f"(p {alarm.p_value:.2g}), wanted none"
                for alarm in drift.alarms
            )
        )


def read_requests(logs: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Read request logs, skipping incomplete lines such as the last one of a killed service.

    Raises:
        FoundryError: a file is missing or contains no requests.
    """
    for path in logs:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise FoundryError(f"{path}: not a readable request log: {error}") from None
        requests = [request for line in lines if (request := _request(line)) is not None]
        if lines and not requests:
            raise FoundryError(f"{path}: found no request, wanted one JSON object with class_label per line")
        yield from requests


def _request(line: str) -> dict[str, Any] | None:
    try:
        request = json.loads(line)
    except ValueError:
        return None
    if not isinstance(request, dict) or request.get("outcome") == "refused":
        return None
    label = request.get("class_label", "")
    return request if label is None or type(label) is int else None
