"""The optional request log: one JSON line per request for images, with its parameters and outcome.

It contains no images, no API keys and no `user` field. docs/contracts.md lists the fields.
"""

import json
import logging
import logging.handlers
import time
from pathlib import Path
from typing import Any

from pipeline.artefacts.sizes import MIB

BACKUPS = 3


class RequestLog:
    """A log file that is rotated at `max_mib`; `BACKUPS` old files are kept."""

    def __init__(self, path: Path, max_mib: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handler = logging.handlers.RotatingFileHandler(
            path, maxBytes=max_mib * MIB, backupCount=BACKUPS, encoding="utf-8"
        )

    def write(self, **fields: Any) -> None:
        """Append one line with these fields and the time; a full disk does not stop the service."""
        line = json.dumps({"time": round(time.time(), 3), **fields}, sort_keys=True)
        self._handler.handle(logging.makeLogRecord({"msg": line}))

    def close(self) -> None:
        self._handler.close()
