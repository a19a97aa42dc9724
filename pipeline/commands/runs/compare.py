"""`foundry runs compare`: any number of runs beside each other on one page that needs no network.

Reads: the tracking store
Writes: runs.html
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.artefacts.files import naming
from pipeline.errors import FoundryError
from pipeline.progress import waiting
from pipeline.registry import versions
from pipeline.reporting.run_comparison import write
from pipeline.reporting.run_summaries import RunSummary, summarize_run
from pipeline.tracking.past_runs import PastRuns
from pipeline.tracking.store import answering


def main(runs: Sequence[str], out: Path) -> None:
    registered = {name: versions.resolve(name).training_run for name in runs if name.startswith("models:/")}
    with answering(), waiting("runs and their pictures"):
        past = PastRuns()
        found = [
            summarize_run(past, past.run(registered[name]) if name in registered else past.find(name)) for name in runs
        ]
    path = compare(found, out)
    sys.stdout.write(f"{path.resolve()}\n")


def compare(runs: Sequence[RunSummary], out: Path) -> Path:
    """Write the page into the folder `out`.

    Raises:
        FoundryError: there are fewer than two runs, each counted once.
    """
    different = list({run.run_id: run for run in runs}.values())
    if len(different) < 2:
        raise FoundryError(
            f"runs compare: wants at least two pipelines (got {', '.join(run.name for run in different) or 'none'})"
        )
    with naming(out):
        out.mkdir(parents=True, exist_ok=True)
    path = out / "runs.html"
    write(path, different)
    return path
