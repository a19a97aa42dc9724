"""A JSON line for every request that asked for images, where one is wanted: what was asked and how it ended.

It holds no pictures, no API keys and nothing of the field `user`.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import time
from pathlib import Path
from typing import Any

BACKUPS = 3


class RequestLog:
    """A file that is rotated when it is large."""

    def __init__(self, path: Path, max_mib: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handler = logging.handlers.RotatingFileHandler(
            path, maxBytes=max_mib * 2**20, backupCount=BACKUPS, encoding="utf-8"
        )

    def write(self, **facts: Any) -> None:
        """One line, with the time; a full disk does not stop the service."""
        line = json.dumps({"time": round(time.time(), 3), **facts}, sort_keys=True)
        self._handler.handle(logging.makeLogRecord({"msg": line}))

    def close(self) -> None:
        self._handler.close()
