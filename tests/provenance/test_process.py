import subprocess
import sys

import psutil

from pipeline.provenance.process import ProcessId


def test_a_running_process_is_alive_and_an_ended_one_is_not() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with process:
        other = ProcessId.of(psutil.Process(process.pid))
        assert other.is_alive()
        assert ProcessId.parse(str(other)).is_same(other)
        process.kill()
    assert not other.is_alive()
    assert ProcessId.current().is_alive()


def test_a_later_process_with_the_same_number_is_another() -> None:
    here = ProcessId.current()
    assert not ProcessId(here.pid, here.created - 100).is_alive()
