"""What two versions of the data differ in, to look at: images added, removed, relabelled, broken, repeated.

    python -m pipeline.commands.compare_data data/prepared ../other/data/prepared
    python -m pipeline.commands.compare_data data/raw incoming

Each is a prepared folder, or raw data of the kind `prepare.source`, which is prepared as params.yaml says.

Writes: diffdata.html
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import command

if TYPE_CHECKING:
    from pipeline.params import PrepareParams
    from pipeline.reporting.retraining import DataReview


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.commands.compare_data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("before", type=Path, metavar="A", help="the earlier folder")
    parser.add_argument("after", type=Path, metavar="B", help="the later folder")
    parser.add_argument("--out", type=Path, default=Path("data/diffdata"), help="default: %(default)s")
    arguments = parser.parse_args()
    from pipeline.params import load_params

    found = diffdata(arguments.before, arguments.after, load_params().prepare, arguments.out)
    sys.stderr.write(", ".join(f"{count:,} {kind}" for kind, count in found.counts.items()) + "\n")
    sys.stdout.write(f"{(arguments.out / 'diffdata.html').resolve()}\n")


def diffdata(before: Path, after: Path, params: PrepareParams, out: Path) -> DataReview:
    """Write diffdata.html into `out`; returns what it shows.

    Raises:
        FoundryError: a folder holds neither prepared nor raw images.

    """
    from pipeline.reporting.data_change import change_between
    from pipeline.reporting.image_set import opened
    from pipeline.reporting.pages import write_page
    from pipeline.reporting.retraining import review

    with ExitStack() as stack:
        old, new = (stack.enter_context(opened(folder, params)) for folder in (before, after))
        found = review(change_between(old, new), old, new)
    out.mkdir(parents=True, exist_ok=True)
    write_page(out / "diffdata.html", "diffdata.html", it=found, before=before, after=after)
    return found


if __name__ == "__main__":
    command.run(main)
