import asyncio
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from service import drain
from tests.service.server import begin, free_port, serving, soon


def test_a_port_without_a_service_is_an_error() -> None:
    port = str(free_port())
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "drain", "--port", port], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"--port {port}: no service of this user with FOUNDRY_PORT={port} answers at ")
    assert len(done.stderr.splitlines()) == 1


def test_the_command_drains_a_service_whose_predecessor_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    drained: list[bool] = []

    async def scenario() -> None:
        with socket.socket(socket.AF_UNIX) as killed:
            killed.bind(str(drain.socket_path(3000)))
        server = await drain.listen(3000, lambda: drained.append(True) or 3)
        # Only the same user can connect.
        assert stat.S_IMODE(drain.socket_path(3000).stat().st_mode) == 0o600
        await asyncio.to_thread(drain.main, 3000)
        server.close()

    asyncio.run(scenario())
    assert drained == [True]
    assert capsys.readouterr().out == "draining; 3 open requests\n"


def test_ctrl_c_names_what_it_waits_for_and_a_second_one_ends_it(model_folder: Path, tmp_path: Path) -> None:
    with serving(model_folder, tmp_path, FOUNDRY_ROWS="2") as server, ExitStack() as stack:
        # Work for ten seconds and more: it must not end before the second Ctrl-C, which a busy machine sends late.
        for _ in range(8):
            body = {"n": 8, "steps": 100, "stream": True, "class_label": 0, "guidance_scale": 2.0}
            begin(server, body, stack)
        assert soon(lambda: server.metric("open_streams") == 8)
        server.process.send_signal(signal.SIGINT)
        assert soon(lambda: "waiting for 8 open requests; Ctrl-C again ends at once" in server.log.read_text())
        assert server.get("/readyz").status_code == 503
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait() == 130
        assert soon(lambda: server.processes() == [])


def test_ctrl_c_ends_an_idle_service_at_once(model_folder: Path, tmp_path: Path) -> None:
    with serving(model_folder, tmp_path) as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait() == 0
        assert "waiting for" not in server.log.read_text()
