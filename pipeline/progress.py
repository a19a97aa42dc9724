"""Progress on standard error: redrawn in place on a terminal, a plain line every ten seconds in a log; never coloured."""

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from tqdm import tqdm

TERMINAL_DELAY_SEC, TERMINAL_INTERVAL_SEC = 1.0, 0.5
LOG_INTERVAL_SEC = 10.0
WAIT_DELAY_SEC, WAIT_INTERVAL_SEC = 2.0, 1.0
LINE = "{desc}: {percentage:.0f}% {n_fmt}/{total_fmt}{unit} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


def progress_bar(
    items: Iterable[Any] | None = None, *, name: str, unit: str, total: int | None, done: int = 0, hidden: bool = False
) -> "tqdm[Any]":
    """A bar to iterate over `items`, or to `update` by hand; work that ends within a second shows none.

    Args:
        items: None to update by hand.
        name: of the work.
        unit: of `total`, in the plural.
        total: amount of work, if it is known.
        done: amount that was done before this process started.
        hidden: show nothing.
    """
    options: dict[str, Any] = {"desc": name, "unit": f" {unit}", "total": total, "initial": done, "disable": hidden}
    if sys.stderr.isatty():
        # `leave=None`: a bar inside another one is erased when it ends.
        options |= {"delay": TERMINAL_DELAY_SEC, "mininterval": TERMINAL_INTERVAL_SEC, "leave": None}
    else:
        options |= {"delay": LOG_INTERVAL_SEC, "mininterval": LOG_INTERVAL_SEC, "bar_format": LINE}
        options |= {"file": Lines(sys.stderr), "position": 0}
    bar: tqdm[Any] = tqdm(items, **options)
    return bar


@contextmanager
def waiting(name: str) -> Iterator[None]:
    """Show how long the block has been running, for work of unknown length: on a terminal after two seconds.

    Args:
        name: of the work, such as `export`.
    """
    ended = threading.Event()
    teller = threading.Thread(target=_tell, args=(name, ended, sys.stderr), name="waiting", daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


def _tell(name: str, ended: threading.Event, log: TextIO) -> None:
    begun, on_terminal, line = time.monotonic(), log.isatty(), ""
    pause, interval = (WAIT_DELAY_SEC, WAIT_INTERVAL_SEC) if on_terminal else (LOG_INTERVAL_SEC, LOG_INTERVAL_SEC)
    while not ended.wait(pause):
        pause, line = interval, f"{name}: {time.monotonic() - begun:.0f} s"
        log.write(f"\r{line}" if on_terminal else f"{line}\n")
        log.flush()
    if on_terminal and line:
        log.write(f"\r{' ' * len(line)}\r")
        log.flush()


class Lines:
    """Turns the output of a bar, which expects to be redrawn in place, into whole lines of a log."""

    def __init__(self, log: TextIO) -> None:
        self._log = log

    def write(self, text: str) -> None:
        """Write the visible part of `text` as a line."""
        if line := text.strip():
            self._log.write(f"{line}\n")

    def flush(self) -> None:
        self._log.flush()
