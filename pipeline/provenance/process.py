"""Identities of processes, which stay valid when the clock is set and when a process number is used again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

CLOCK_TOLERANCE_SEC = 2.0
"""The boot time is known in whole seconds and can change by one between two queries."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process number with the time of its start, which tells it from a later process with the same number."""

    pid: int
    created: float
    """Seconds after the boot of the machine, which do not change when the clock is set."""

    @classmethod
    def current(cls) -> Self:
        return cls.of(psutil.Process())

    @classmethod
    def of(cls, process: psutil.Process) -> Self:
        return cls(process.pid, round(process.create_time() - psutil.boot_time(), 2))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `PID@CREATED`, the format of `str`."""
        pid, created = text.split("@")
        return cls(int(pid), float(created))

    def __str__(self) -> str:
        return f"{self.pid}@{self.created:.2f}"

    def is_same(self, other: Self) -> bool:
        return self.pid == other.pid and abs(self.created - other.created) < CLOCK_TOLERANCE_SEC

    def is_alive(self) -> bool:
        try:
            return self.is_same(ProcessId.of(psutil.Process(self.pid)))
        except psutil.NoSuchProcess:
            return False


def dvc_process() -> ProcessId | None:
    """The nearest DVC process above this one, which all stages of one `dvc repro` share; None outside of DVC."""
    for process in psutil.Process().parents():
        try:
            words = process.cmdline()[:4]
            if any(Path(word).name == "dvc" for word in words):
                return ProcessId.of(process)
        except psutil.Error:
            continue
    return None
