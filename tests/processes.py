"""Processes that a test starts, and that end with it even if it fails.

Nothing here has a time limit: pytest's own ends a test that hangs (`timeout` in pyproject.toml), and what takes a second
alone may take minutes on a busy machine.
"""

import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

_started: list[subprocess.Popen[str]] = []


def start(command: Sequence[str | Path], **settings: Any) -> subprocess.Popen[str]:
    """Start a process with streams of text, which `end_all` ends after the test if it still runs."""
    process = subprocess.Popen(command, text=True, **settings)
    _started.append(process)
    return process


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait until the condition holds while the process runs; fails with its output if it ends before."""
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def end_all() -> None:
    """Kill the started processes that still run, with the processes that these have started."""
    while _started:
        process = _started.pop()
        if process.poll() is None:
            children = psutil.Process(process.pid).children(recursive=True)
            for each in (process, *children):
                with suppress(psutil.NoSuchProcess):
                    each.kill()
            # Their end is not ours to collect: where no one does they stay as zombies.
            psutil.wait_procs(children, timeout=5)
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
