"""`foundry model promote`: make a registered version champion without applying the rules."""

import sys

from pipeline.errors import FoundryError
from pipeline.params import load_params
from pipeline.registry.registry import Registry
from pipeline.tracking import store


def main(version: int, reason: str) -> None:
    reason = parse_reason(reason)
    sys.stdout.write(f"{promote(load_params().register_.model_name, str(version), reason)}\n")


def promote(name: str, version: str, reason: str) -> str:
    """Make a version champion; returns the outcome in one line.

    Raises:
        FoundryError: it is the champion already.
        StoreError: there is no such version, or the registry does not answer.
    """
    with store.answering():
        before = Registry(name).aliases.promote(version, reason)
    place = f"in place of version {before}" if before else "the first"
    return f"{name} version {version} is champion, {place}: {reason}"


def parse_reason(text: str) -> str:
    """A reason on one line.

    Raises:
        FoundryError: it is empty.
    """
    reason = " ".join(text.split())
    if not reason:
        raise FoundryError("--reason: should explain the decision (got nothing)")
    return reason
