"""Make the previous champion champion again; the one that it was becomes previous.

Params: register
"""

from __future__ import annotations

import argparse
import sys

from pipeline import command


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.commands.rollback", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--reason", required=True, metavar="TEXT", help="for those who read the history")
    reason = " ".join(parser.parse_args().reason.split())
    if not reason:
        parser.error("--reason: should say why (got nothing)")

    from pipeline.params import load_params

    sys.stdout.write(f"{rollback(load_params().register_.model_name, reason)}\n")


def rollback(name: str, reason: str) -> str:
    """Returns in one line who is champion now.

    Raises:
        FoundryError: there is no previous champion.
        StoreError: the registry does not answer.

    """
    from pipeline.registry.registry import Registry
    from pipeline.tracking import store

    with store.answering():
        again, was = Registry(name).succession.roll_back(reason)
    return f"{name} version {again} is champion again; version {was} is previous: {reason}"


if __name__ == "__main__":
    command.run(main)
