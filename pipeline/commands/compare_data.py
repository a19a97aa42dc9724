"""What two versions of the data differ in, to look at: images added, removed, relabelled, broken, repeated.

    foundry data compare data/prepared ../other/data/prepared
    foundry data compare data/raw incoming

Each is a prepared folder, or raw data of the kind `prepare.source`, which is prepared as params.yaml says.

Writes: diffdata.html
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from pipeline.params import PrepareParams, load_params
from pipeline.reporting.data_change import change_between
from pipeline.reporting.image_set import opened
from pipeline.reporting.pages import write_page
from pipeline.reporting.retraining import DataReview, review


def main(before: Path, after: Path, out: Path) -> None:

    found = diffdata(before, after, load_params().prepare, out)
    sys.stderr.write(", ".join(f"{count:,} {kind}" for kind, count in found.counts.items()) + "\n")
    sys.stdout.write(f"{(out / 'diffdata.html').resolve()}\n")


def diffdata(before: Path, after: Path, params: PrepareParams, out: Path) -> DataReview:
    """Write diffdata.html into `out`; returns what it shows.

    Raises:
        FoundryError: a folder holds neither prepared nor raw images.

    """
    with ExitStack() as stack:
        old, new = (stack.enter_context(opened(folder, params)) for folder in (before, after))
        found = review(change_between(old, new), old, new)
    out.mkdir(parents=True, exist_ok=True)
    write_page(out / "diffdata.html", "diffdata.html", it=found, before=before, after=after)
    return found
