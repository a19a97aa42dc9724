import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.protocol import in_turn, run_command, table
from pipeline.errors import FoundryError
from tests.processes import start, wait_for


def test_every_arm_is_measured_once_per_round_and_the_warm_up_round_is_dropped() -> None:
    calls: list[str] = []

    def arm(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    values = in_turn({"a": lambda: arm("a"), "b": lambda: arm("b")}, rounds=2)
    assert calls == ["a", "b"] * 3
    assert values == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_a_table_shows_three_significant_digits_and_a_dash_for_none() -> None:
    text = table(["arm", "images/s"], [["ours", 12.3456], ["large", 12345.6], ["none", None]])
    assert text == "| arm | images/s |\n| --- | --- |\n| ours | 12.3 |\n| large | 12346 |\n| none | – |\n"


def test_the_error_of_a_failed_command_contains_its_output(tmp_path: Path) -> None:
    with pytest.raises(FoundryError, match=r"(?s)exit code 3.*no such thing"):
        run_command([sys.executable, "-Sc", "print('no such thing'); raise SystemExit(3)"], folder=tmp_path)


def test_a_command_is_timed_and_its_memory_is_its_own(tmp_path: Path) -> None:
    code = "import time; x = b'1' * ({} << 20); time.sleep(0.3); print('done')"
    large, small = (run_command([sys.executable, "-Sc", code.format(mib)], folder=tmp_path) for mib in (200, 1))
    assert small.output == "done\n"
    assert large.seconds > 0.3
    assert 190 < large.peak_mib - small.peak_mib < 250


def test_sigterm_to_a_benchmark_terminates_the_command_that_it_runs(root: Path, tmp_path: Path) -> None:
    waiting = "import pathlib, sys, time; pathlib.Path('started').touch(); time.sleep(60)"
    code = (
        f"from pathlib import Path; from benchmarks.protocol import python, run_command;"
        f"run_command(python('-Sc', {waiting!r}), folder=Path({str(tmp_path)!r}))"
    )
    environment = os.environ | {"PYTHONPATH": str(root)}
    benchmark = start([sys.executable, "-c", code], env=environment)
    wait_for((tmp_path / "started").exists, benchmark)
    (started,) = psutil.Process(benchmark.pid).children()
    benchmark.terminate()
    assert benchmark.wait() == 128 + signal.SIGTERM
    assert not started.is_running()
