"""What all benchmarks share: arms asked in turn, commands timed, a table for people and JSON for machines.

Timings differ between machines and between minutes, so what counts is the ratio of arms in one run. In every round
each arm is asked once: a slow minute meets all of them.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, NoReturn

from pipeline.artefacts.files import write_json
from pipeline.errors import FoundryError

if TYPE_CHECKING:
    from types import FrameType

ROOT = Path(__file__).parents[1]
WARM_UP_ROUNDS = 1
WATCH_SEC = 0.02


@dataclass(frozen=True, slots=True)
class Run:
    """A command that ended well."""

    seconds: float
    """From its start to its end."""
    peak_mib: float
    """Largest resident memory of its first process."""
    said: str
    """Standard output and error."""


def parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="try the benchmark: its figures mean nothing")
    made.add_argument("--out", type=Path, metavar="FILE", help="JSON with all that was measured")
    return made


def in_turn(arms: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each arm says in each round, after one round that does not count."""
    said: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(WARM_UP_ROUNDS + rounds):
        for name, ask in arms.items():
            value = ask()
            if number >= WARM_UP_ROUNDS:
                said[name].append(value)
    return said


def seconds_of(work: Callable[[], object]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def run_command(command: Sequence[str], *, folder: Path, environment: Mapping[str, str] | None = None) -> Run:
    """Run a command in a folder; whatever ends this process, SIGTERM too, ends the command.

    Raises:
        FoundryError: it does not end with 0; the end of what it said is in the message.

    """
    with TemporaryFile() as said, _sigterm_raised():
        began = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603  # our own commands
            command, cwd=folder, env={**os.environ, **(environment or {})}, stdout=said, stderr=subprocess.STDOUT
        )
        try:
            with _watched(process.pid) as memory:
                process.wait()
                seconds = time.perf_counter() - began
        except BaseException:
            process.terminate()
            process.wait()
            raise
        said.seek(0)
        text = said.read().decode(errors="replace")
    if process.returncode:
        raise FoundryError(f"{' '.join(command)}: exit code {process.returncode}\n{text[-2000:]}")
    return Run(seconds, max(memory, default=0.0), text)


@contextmanager
def _sigterm_raised() -> Iterator[None]:
    """SIGTERM as an exception, so that who waits for a command can end it."""

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _watched(pid: int) -> Iterator[list[float]]:
    """High-water marks of a process's memory, MiB, every few milliseconds.

    Not `wait4`, whose maximum holds the memory that this process had when it started the other.
    """
    marks: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(WATCH_SEC):
            try:
                status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
            except OSError:
                return
            marks.extend(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield marks
    finally:
        ended.set()
        thread.join()


def python(*arguments: str) -> list[str]:
    """A command for this interpreter."""
    return [sys.executable, *arguments]


def scratch_environment(folder: Path) -> dict[str, str]:
    """For stages outside of the project: our code, a store in `folder`, threads that wait without spinning for long."""
    inherited = os.environ.get("PYTHONPATH")
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), inherited])),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder.absolute()}/mlflow.db",
        "DVC_NO_ANALYTICS": "1",
        "DVC_ROOT": str(folder.absolute()),
    }


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; floats have three digits."""
    lines = [columns, ["---"] * len(columns), *([_cell(value) for value in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def finish(arguments: argparse.Namespace, document: Mapping[str, Any], text: str) -> None:
    """Print the tables and, where it is asked for, write the JSON."""
    sys.stdout.write(text)
    if arguments.out:
        save(arguments.out, {"machine": machine(), "quick": arguments.quick, **document})


def save(path: Path, document: Mapping[str, Any]) -> None:
    """Write JSON, into a folder that need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, document)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch  # noqa: PLC0415  # not every benchmark needs it

    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _processor(),
        "load": os.getloadavg()[0],
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def say(text: str) -> None:
    """Progress, on standard error."""
    sys.stderr.write(f"{text}\n")
