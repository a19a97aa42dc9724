"""Load of the machine while a stage runs: CPU, memory, disk, network and GPUs, in MLflow's tab *System metrics*.

MLflow's own monitors measure it. Its own thread is not used: it asks the server at every sample, and ends for good when there is no
answer. The variables are MLflow's: MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false measures nothing, and
MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL is in seconds, 10 by default.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from pipeline.tracking import store

PATIENCE_SEC = 1.0
"""How long the end of a stage waits for a sample; MLflow may just be being imported."""
Log = Callable[[Mapping[str, float], int], None]
"""Takes metrics and their step."""


@contextmanager
def watching(log: Log) -> Iterator[None]:
    """Log the load in the background until the block ends."""
    ending = threading.Event()
    thread = threading.Thread(target=_watch, args=(log, ending), name="machine", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join(PATIENCE_SEC)


def _watch(log: Log, ending: threading.Event) -> None:
    try:
        monitor = store.system_monitor()
        while monitor is not None and not ending.wait(monitor.sampling_interval):
            monitor.collect_metrics()
            load = {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
            # Steps only tell samples apart, also from those before a kill: MLflow's charts of `system/` are over time.
            log(load, int(time.time()))
            for each in monitor.monitors:
                each.clear_metrics()
    except Exception as error:  # noqa: BLE001  # no error of tracking may stop a stage
        sys.stderr.write(f"\ntracking: the load of this machine is not logged: {store.first_line(error)}\n")
