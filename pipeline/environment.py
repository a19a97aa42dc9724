"""The environment variables of the project: one list for all commands, in which a mistyped name is looked up."""

import sys
from collections.abc import Iterable
from difflib import SequenceMatcher

from pipeline.errors import FoundryError

PREFIX = "FOUNDRY_"
VARIABLES = frozenset(
    PREFIX + name
    for name in (
        *("MODEL", "MODEL_NAME", "MODEL_VERSION", "BACKEND", "PORT", "ROWS", "THREADS"),
        *("API_KEYS", "ALLOW_ANONYMOUS", "ALLOWED_HOSTS", "CORS_ORIGINS", "PASSPORT_KEY"),
        *("MAX_OPEN_IMAGES", "MAX_OPEN_MIB", "MAX_OPEN_ROW_STEPS", "MAX_REQUEST_ROW_STEPS", "MAX_REQUEST_SEC"),
        *("MAX_CONNECTIONS", "MAX_STREAMS", "MAX_BODY_BYTES", "BODY_SEC", "READER_SEC", "STUCK_SEC", "KEY_SHARE"),
        *("REQUEST_LOG", "REQUEST_LOG_MIB"),
        *("API_KEY", "COMPILE", "RENDEZVOUS", "SOAK_SEC"),
    )
)
"""The service's settings, then those of its clients, of training and of tests."""
SIMILAR = 0.66
"""Ratio of equal letters from which a name counts as mistyped: KEYS for API_KEYS is, PORT_80_TCP for PORT is not."""


def check_environment(names: Iterable[str]) -> None:
    """Warn of variables that no command reads.

    Raises:
        FoundryError: a name is close to a known one, which would be left out in silence.
    """
    unknown = sorted(name for name in names if name.startswith(PREFIX) and name not in VARIABLES)
    mistyped = [f"{name}: there is no such variable; is {near} meant?" for name in unknown if (near := _nearest(name))]
    if mistyped:
        raise FoundryError("\n".join(mistyped))
    for name in unknown:
        sys.stderr.write(f"{name}: no command reads this variable\n")


def _nearest(name: str) -> str | None:
    def similarity(known: str) -> float:
        return SequenceMatcher(None, name.removeprefix(PREFIX), known.removeprefix(PREFIX)).ratio()

    nearest = max(VARIABLES, key=similarity)
    return nearest if similarity(nearest) >= SIMILAR else None
