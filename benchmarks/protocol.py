"""Shared parts of all benchmarks: interleaved rounds, timed commands, Markdown tables and JSON results.

Timings vary between machines and between minutes, so a claim is a ratio of arms within one run. Every round measures
each arm once, so that a slow minute affects all of them.
"""

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
from tempfile import TemporaryDirectory, TemporaryFile
from types import FrameType
from typing import Any, NoReturn

import torch

from pipeline.artefacts.files import write_json
from pipeline.errors import FoundryError

ROOT = Path(__file__).parents[1]
WARM_UP_ROUNDS = 1
WATCH_SEC = 0.02


@dataclass(frozen=True, slots=True)
class Run:
    """A command that has succeeded."""

    seconds: float
    """Wall time from start to end."""
    peak_mib: float
    """Peak resident memory of its first process, MiB."""
    output: str
    """Standard output and error."""


def parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark shares."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="try the benchmark in minutes; its figures mean nothing")
    made.add_argument("--out", type=Path, metavar="FILE", help="write all measurements as JSON")
    return made


def in_turn(arms: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call each arm once per round and return its values, without those of the warm-up round."""
    values: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(WARM_UP_ROUNDS + rounds):
        for name, measure in arms.items():
            value = measure()
            if number >= WARM_UP_ROUNDS:
                values[name].append(value)
    return values


def time_call(work: Callable[[], object]) -> float:
    """Return the wall time of one call, seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def run_command(command: Sequence[str], *, folder: Path, environment: Mapping[str, str] | None = None) -> Run:
    """Run a command in a folder; if this process ends, by SIGTERM too, it terminates the command.

    Raises:
        FoundryError: the exit code is not 0; the message contains the end of the output.
    """
    with TemporaryFile() as output, _sigterm_raised():
        start = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603  # our own commands
            command, cwd=folder, env={**os.environ, **(environment or {})}, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            with _watched(process.pid) as memory:
                process.wait()
                seconds = time.perf_counter() - start
        except BaseException:
            process.terminate()
            process.wait()
            raise
        output.seek(0)
        text = output.read().decode(errors="replace")
    if process.returncode:
        raise FoundryError(f"{' '.join(command)}: exit code {process.returncode}\n{text[-2000:]}")
    return Run(seconds, max(memory, default=0.0), text)


@contextmanager
def _sigterm_raised() -> Iterator[None]:
    """Raise SystemExit on SIGTERM, so that a caller that waits for a command can terminate it."""

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _watched(pid: int) -> Iterator[list[float]]:
    """Yield a list that collects the high-water mark of a process's memory, MiB, every `WATCH_SEC`.

    `wait4` would report at least the memory that this process had when it started the other.
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


@contextmanager
def checked_out(project: Path, commit: str) -> Iterator[Path]:
    """Yield a folder with a commit of a repository, in a worktree that is removed afterwards.

    Raises:
        FoundryError: the commit is unknown.
    """
    with TemporaryDirectory(prefix="foundry-") as folder:
        place = Path(folder) / "checkout"
        run_command(["git", "worktree", "add", "--quiet", "--detach", str(place), commit], folder=project)
        try:
            yield place
        finally:
            run_command(["git", "worktree", "remove", "--force", str(place)], folder=project)


def python(*arguments: str) -> list[str]:
    """Return a command line for this interpreter."""
    return [sys.executable, *arguments]


def scratch_environment(folder: Path) -> dict[str, str]:
    """Return the environment of a stage outside the project: our code, an MLflow store in `folder`, little spinning."""
    inherited = os.environ.get("PYTHONPATH")
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), inherited])),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder.absolute()}/mlflow.db",
        "DVC_NO_ANALYTICS": "1",
        "DVC_ROOT": str(folder.absolute()),
    }


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; floats have three significant digits."""
    lines = [columns, ["---"] * len(columns), *([_cell(value) for value in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def finish(arguments: argparse.Namespace, document: Mapping[str, Any], text: str) -> None:
    """Print the tables and, with --out, write the JSON."""
    sys.stdout.write(text)
    if arguments.out:
        save(arguments.out, {"machine": machine_facts(), "quick": arguments.quick, **document})


def save(path: Path, document: Mapping[str, Any]) -> None:
    """Write JSON and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, document)


def machine_facts() -> dict[str, Any]:
    """Return the CPU, load and versions with which the figures were measured."""
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


def log_progress(text: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(f"{text}\n")
