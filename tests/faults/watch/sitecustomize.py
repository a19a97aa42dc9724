"""On PYTHONPATH this watches every Python process: who unpickles, and whom it calls; WATCH_LOG has a line for each.

Unpickling fails, and what WATCH_FORBIDDEN names (top-level modules, by commas) is not there.
"""

import ipaddress
import json
import os
import pickle
import sys
from typing import Any

FORBIDDEN = set(filter(None, os.environ.get("WATCH_FORBIDDEN", "").split(",")))


class RefusedError(Exception):
    """Something was to be unpickled."""


def _note(kind: str, what: str) -> None:
    line = json.dumps({"kind": kind, "what": what, "command": " ".join(sys.orig_argv[:5])}) + "\n"
    file = os.open(os.environ["WATCH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, line.encode())
    os.close(file)


def _refuse(*_: Any, **__: Any) -> Any:
    frame = sys._getframe(1)
    caller = f"{frame.f_globals.get('__name__')}.{frame.f_code.co_name}"
    _note("pickle", caller)
    raise RefusedError(caller)


class _Unpickler(pickle.Unpickler):
    """A class, since others derive from it."""

    __new__ = _refuse


class OnlyBilled:
    """Finds nothing that WATCH_FORBIDDEN names, as if it were not installed."""

    def find_spec(self, name: str, *_: Any) -> None:
        if name in FORBIDDEN:
            _note("refused", name)
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _is_far(host: Any) -> bool:
    try:
        return not ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return host not in {"localhost", "", None}


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple) and _is_far(arguments[1][0]):
        _note("connect", repr(arguments[1]))
    if event == "socket.getaddrinfo" and _is_far(arguments[0]):
        _note("resolve", repr(arguments[0]))


if "WATCH_LOG" in os.environ:
    pickle.load, pickle.loads, pickle.Unpickler = _refuse, _refuse, _Unpickler  # type: ignore[misc]
    sys.addaudithook(_hear)
    _note("begin", "")
    sys.meta_path.insert(0, OnlyBilled())  # type: ignore[arg-type]
