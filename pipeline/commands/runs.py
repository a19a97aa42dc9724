"""Runs in MLflow from the command line: send what waits, complete the list of runs, show them."""

import sys

from pipeline.tracking import reconcile as reconciliation
from pipeline.tracking import runs, store


def sync() -> None:
    sys.stdout.write(f"{runs.sync()} outboxes sent to {store.tracking_uri()}\n")


def reconcile() -> None:
    runs.sync()
    sys.stdout.write("".join(f"{line}\n" for line in reconciliation.reconcile().lines()))


def ui(host: str, port: int) -> None:
    store.serve(host, port)
