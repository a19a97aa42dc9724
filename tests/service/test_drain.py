import subprocess
import sys

from tests.service.server import free_port


def test_a_port_without_a_service_is_an_error() -> None:
    port = str(free_port())
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "drain", "--port", port], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"--port {port}: no service of this user with FOUNDRY_PORT={port} answers at ")
    assert len(done.stderr.splitlines()) == 1
