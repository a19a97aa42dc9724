"""Serves a model folder: checks address, environment and model, then replaces itself by `service.supervisor`.

BentoML restarts a service that fails at its start for ever; here an error ends with one line and exit code 2.
"""

import ipaddress
import os
import sys
from pathlib import Path
from tempfile import TemporaryFile

from pipeline.address import require_free
from pipeline.errors import FoundryError
from service.runtime import load_stepper
from service.settings import Settings, load_settings

SERVICE = "service.app:Foundry"
KEEP_ALIVE_SEC = 620
"""Time after which an idle connection is closed. A proxy that keeps connections must close them first, else it sends a
request into a connection that is just being closed: nginx and AWS wait 60 s, Google's load balancers 600 s."""


def main(model: Path, name: str | None, host: str, port: int) -> None:
    os.environ.update(_environment(model, name, port))
    _check_address(host, port)
    _check_home()
    settings = load_settings()
    _check_keys(host, settings)
    load_stepper(settings, model)
    shown = f"[{host}]" if ":" in host else host
    sys.stderr.write(f"in the browser: http://{shown}:{port}/playground (from `listening on` on)\n")
    command = [sys.executable, "-m", "service.supervisor", SERVICE, "--host", host, "--port", str(port)]
    command += ["--timeout-keep-alive", str(KEEP_ALIVE_SEC)]
    os.execv(sys.executable, command)  # noqa: S606, no shell is needed


def _environment(model: Path, name: str | None, port: int) -> dict[str, str]:
    environment = {
        "FOUNDRY_MODEL": str(model.absolute()),
        "FOUNDRY_PORT": str(port),
        "BENTOML_DO_NOT_TRACK": "True",
        # BentoML keeps two spans per request, 4 KB, for an exporter that does not exist.
        "OTEL_SDK_DISABLED": "true",
    }
    return environment | ({"FOUNDRY_MODEL_NAME": name} if name else {})


def _check_address(host: str, port: int) -> None:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise FoundryError(f"--host: should be an IP address, such as 127.0.0.1 or 0.0.0.0 (got {host})") from None
    require_free(host, port)


def _check_home() -> None:
    """BentoML makes its folder when it starts, and ends with a traceback where it cannot."""
    home = Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml")
    try:
        home.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=home):
            pass
    except OSError as error:
        raise FoundryError(
            f"{home}: cannot be written: {error.strerror}; BentoML keeps its files there: set BENTOML_HOME to a folder that can"
        ) from None


def _check_keys(host: str, settings: Settings) -> None:
    if "FOUNDRY_API_KEY" in os.environ and not settings.key_digests:
        raise FoundryError("FOUNDRY_API_KEY: is a client's; the service wants FOUNDRY_API_KEYS, or neither of them")
    if not (ipaddress.ip_address(host).is_loopback or settings.key_digests or settings.allow_anonymous):
        raise FoundryError(
            f"--host {host}: other machines can reach it; set FOUNDRY_API_KEYS, or FOUNDRY_ALLOW_ANONYMOUS=1 to serve anybody"
        )
