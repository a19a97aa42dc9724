"""A process that draws and measures one model of a comparison, by `foundry trial`."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast

from pipeline.errors import FoundryError
from pipeline.registry.gate.evaluation_setup import EvaluationSetup


class EvaluationProcess:
    """A process that runs `foundry trial`; once entered, it has evaluated its model and waits to be timed."""

    def __init__(self, model: Path, setup: EvaluationSetup, out: Path) -> None:
        self.model, self.out = model, out
        folders = {"model": model, "prepared": setup.prepared, "features": setup.features, "out": out}
        options = [word for name, folder in folders.items() for word in (f"--{name}", str(folder))]
        self._process = subprocess.Popen(  # noqa: S603  # the words are ours
            [sys.executable, "-m", "pipeline", "trial", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        try:
            self.peak_memory_mib = self._answer("peak_memory_mib")
            self._answer("num_evaluated")
        except BaseException:
            self._end(now=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(now=kind is not None)

    def _end(self, *, now: bool) -> None:
        if now:
            self._process.kill()
        # Closes its standard input, at whose end it exits.
        self._process.communicate()

    def time_batch(self) -> float:
        """Let it draw one batch now; returns the seconds that it took."""
        # If the process has died, the read below reports it.
        with suppress(BrokenPipeError):
            requests = cast("IO[str]", self._process.stdin)
            requests.write("\n")
            requests.flush()
        return self._answer("seconds")

    def _answer(self, key: str) -> float:
        line = cast("IO[str]", self._process.stdout).readline()
        if not line:
            raise FoundryError(f"{self.model}: its evaluation ended with exit code {self._process.wait()}, see above")
        return float(json.loads(line)[key])
