import subprocess
import sys

from tests.service.server import free_port


def test_a_port_that_nobody_serves_is_told() -> None:
    port = str(free_port())
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "drain", "--port", port], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == f"--port {port}: no service of this user was started with FOUNDRY_PORT={port}\n"
