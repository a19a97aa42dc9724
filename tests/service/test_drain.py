import asyncio
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from service import drain
from tests.service.server import free_port


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
