"""Completes the list of runs: logs stages that DVC took from its cache, and lists lost and foreign runs."""

import sys

from pipeline.progress import waiting
from pipeline.tracking import reconcile, runs


def main() -> None:
    runs.sync()
    with waiting("runs of DVC's revisions"):
        findings = reconcile.reconcile()
    sys.stdout.write("".join(f"{line}\n" for line in findings.lines()))
