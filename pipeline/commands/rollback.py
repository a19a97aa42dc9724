"""`foundry model rollback`: make the champion before the present one champion again."""

import sys

from pipeline.commands.promote import parse_reason
from pipeline.params import load_params
from pipeline.registry.registry import Registry
from pipeline.tracking import store


def main(reason: str) -> None:
    reason = parse_reason(reason)
    sys.stdout.write(f"{rollback(load_params().register_.model_name, reason)}\n")


def rollback(name: str, reason: str) -> str:
    """Roll back; returns in one line who is champion now, and where another rollback would lead.

    Raises:
        FoundryError: there is no earlier champion.
        StoreError: the registry does not answer.
    """
    with store.answering():
        aliases = Registry(name).aliases
        champion, before = aliases.roll_back(reason)
        earlier = aliases.current().get("previous")
    further = f"another rollback goes further back, to version {earlier}" if earlier else "no earlier champion is left"
    return f"{name} version {champion} is champion again in place of version {before}: {reason} ({further})"
