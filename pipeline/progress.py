"""Progress bars on standard error: redrawn in place on a terminal, a plain line every ten seconds in a log."""

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm

TERMINAL_DELAY_SEC, TERMINAL_INTERVAL_SEC = 1.0, 0.5
LOG_INTERVAL_SEC = 10.0
LINE = "{desc}: {percentage:.0f}% {n_fmt}/{total_fmt}{unit} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


def progress_bar(
    items: Iterable[Any] | None = None, *, name: str, unit: str, total: int | None, done: int = 0, hidden: bool = False
) -> "tqdm[Any]":
    """A bar to iterate over `items`, or to `update` by hand; what ends within a second shows none.

    Args:
        items: None to update by hand.
        name: of the work.
        unit: of `total`, in the plural.
        total: amount of work, if it is known.
        done: of it before this process.
        hidden: show nothing.
    """
    options: dict[str, Any] = {"desc": name, "unit": f" {unit}", "total": total, "initial": done, "disable": hidden}
    if sys.stderr.isatty():
        # Of a bar within another nothing is left.
        options |= {"delay": TERMINAL_DELAY_SEC, "mininterval": TERMINAL_INTERVAL_SEC, "leave": None}
    else:
        options |= {"delay": LOG_INTERVAL_SEC, "mininterval": LOG_INTERVAL_SEC, "bar_format": LINE}
        options |= {"file": Lines(sys.stderr), "position": 0}
    bar: tqdm[Any] = tqdm(items, **options)
    return bar


class Lines:
    """A log that gets whole lines of a bar which is made to be redrawn."""

    def __init__(self, log: TextIO) -> None:
        self._log = log

    def write(self, text: str) -> None:
        """Write what is visible of `text` as a line."""
        if line := text.strip():
            self._log.write(f"{line}\n")

    def flush(self) -> None:
        self._log.flush()
