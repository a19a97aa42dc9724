"""Make the previous champion champion again; the one that it was becomes previous.

Params: register
"""

from __future__ import annotations

import sys

from pipeline.errors import FoundryError
from pipeline.params import load_params
from pipeline.registry.registry import Registry
from pipeline.tracking import store


def main(reason: str) -> None:
    reason = " ".join(reason.split())
    if not reason:
        raise FoundryError("--reason: should say why (got nothing)")

    sys.stdout.write(f"{rollback(load_params().register_.model_name, reason)}\n")


def rollback(name: str, reason: str) -> str:
    """Returns in one line who is champion now.

    Raises:
        FoundryError: there is no previous champion.
        StoreError: the registry does not answer.

    """
    with store.answering():
        again, was = Registry(name).succession.roll_back(reason)
    return f"{name} version {again} is champion again; version {was} is previous: {reason}"
