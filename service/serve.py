"""Serve a model folder: check everything that can be checked, then become `bentoml serve`.

BentoML starts a service that cannot start again and again; here a fault ends with one line and exit code 2.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import FoundryError

if TYPE_CHECKING:
    from service.settings import Settings

SERVICE = "service.app:Foundry"


def main() -> None:
    arguments = _parser().parse_args()
    from service.settings import load_settings  # noqa: PLC0415, --help needs none of it

    os.environ.update(_environment(arguments))
    try:
        _check_address(arguments.host, arguments.port)
        settings = load_settings()
        _check_keys(arguments.host, settings)
        _check_model(settings)
    except FoundryError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    command = [
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        SERVICE,
        "--host",
        arguments.host,
        "--port",
        str(arguments.port),
    ]
    os.execv(sys.executable, command)  # noqa: S606, no shell is meant


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service.serve", description=__doc__)
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="model folder (default FOUNDRY_MODEL)")
    parser.add_argument("--name", help="the model's name in the API (default FOUNDRY_MODEL_NAME, or diffusion-foundry)")
    parser.add_argument("--host", default="127.0.0.1", help="address (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=3000, help="default 3000")
    return parser


def _environment(arguments: argparse.Namespace) -> dict[str, str]:
    environment = {
        "FOUNDRY_PORT": str(arguments.port),
        "BENTOML_DO_NOT_TRACK": "True",
        # BentoML keeps two spans of each request for an exporter that is not there: 4 KB a request.
        "OTEL_SDK_DISABLED": "true",
    }
    if arguments.model:
        environment["FOUNDRY_MODEL"] = str(arguments.model.absolute())
    if arguments.name:
        environment["FOUNDRY_MODEL_NAME"] = arguments.name
    return environment


def _check_address(host: str, port: int) -> None:
    try:
        with socket.socket(_family(host)) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
    except (OSError, OverflowError) as error:
        raise FoundryError(f"--host {host} --port {port}: {error}") from None


def _family(host: str) -> socket.AddressFamily:
    try:
        return socket.AF_INET if ipaddress.ip_address(host).version == 4 else socket.AF_INET6
    except ValueError:
        raise FoundryError(f"--host: should be an IP address, as in 127.0.0.1 or 0.0.0.0 (got {host})") from None


def _check_keys(host: str, settings: Settings) -> None:
    if not (ipaddress.ip_address(host).is_loopback or settings.key_digests or settings.allow_anonymous):
        raise FoundryError(
            f"--host {host}: others can reach it, so set FOUNDRY_API_KEYS, or FOUNDRY_ALLOW_ANONYMOUS=1 to serve anybody"
        )


def _check_model(settings: Settings) -> None:
    if settings.model is None:
        raise FoundryError("--model: wanted, unless FOUNDRY_MODEL names a model folder")
    from service.runtime import load_stepper  # noqa: PLC0415, torch takes seconds

    load_stepper(settings, settings.model)


if __name__ == "__main__":
    main()
