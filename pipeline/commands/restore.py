"""Restore the code, params, data and model of a run or of a registered version, beside the present work tree.

    foundry runs restore models:/fashion-mnist@champion
    foundry runs restore 0a1b2c3d4e5f60718293a4b5c6d7e8f9 --out ../that-run

A new git work tree is made at the run's commit, with what was not committed then laid over it, and DVC puts the outs
of the run's dvc.lock into it, from its cache or its remote. The present work tree is not touched. Where something is
missing the command says what, and leaves nothing behind.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.commands.restoring import origin_of, restore
from pipeline.provenance.lineage import main_worktree


def main(run: str, out: Path | None) -> None:

    origin = origin_of(run)
    out = out or main_worktree() / ".foundry" / "checkouts" / origin.pipeline_id[:12]
    for line in restore(origin, out):
        sys.stderr.write(f"{line}\n")
    sys.stdout.write(f"{out.resolve()}\n")
