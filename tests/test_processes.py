"""Processes that tests start do not outlive them."""

import sys

import psutil
import pytest

from tests.processes import end_all, start, wait_for

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, file=sys.stderr, flush=True)
time.sleep(600)
"""


def test_a_process_that_a_failed_test_leaves_ends_with_its_children() -> None:
    process = start([sys.executable, "-c", PARENT], stderr=-1)
    assert process.stderr is not None
    child = psutil.Process(int(process.stderr.readline()))
    end_all()
    assert process.returncode == -9
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_waiting_for_a_process_that_has_ended_fails_with_what_it_wrote() -> None:
    process = start([sys.executable, "-c", "import sys; sys.exit('no room')"], stderr=-1)
    with pytest.raises(AssertionError, match="no room"):
        wait_for(lambda: False, process)
