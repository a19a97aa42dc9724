"""`foundry data compare`: images added, removed, relabelled, broken or repeated between two versions of the data."""

import sys
from contextlib import ExitStack
from pathlib import Path

from pipeline.params import PrepareParams, load_params
from pipeline.reporting.data_change import ShownChange, change_between, with_images
from pipeline.reporting.image_set import open_images
from pipeline.reporting.pages import write_page


def main(before: Path, after: Path, out: Path) -> None:
    change = compare(before, after, load_params().prepare, out)
    sys.stderr.write(", ".join(f"{count:,} {kind}" for kind, count in change.counts.items()) + "\n")
    sys.stdout.write(f"{(out / 'comparison.html').resolve()}\n")


def compare(before: Path, after: Path, params: PrepareParams, out: Path) -> ShownChange:
    """Write comparison.html into `out`; returns its content.

    Raises:
        FoundryError: a folder holds neither prepared nor raw images.
    """
    with ExitStack() as stack:
        old, new = (stack.enter_context(open_images(folder, params)) for folder in (before, after))
        change = with_images(change_between(old, new), old, new)
    out.mkdir(parents=True, exist_ok=True)
    write_page(out / "comparison.html", "comparison.html", it=change, before=before, after=after)
    return change
