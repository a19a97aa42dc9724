"""All stages one after the other in one process, in the working folder: each costs its own time and no start.

    python -m tests.faults.stages                     make everything
    python -m tests.faults.stages fill SHARES         … on smaller and smaller disks, each out a disk of its own
    python -m tests.faults.stages try                 … in a place that cannot be written

The last two print a JSON line an attempt: the stage, how it ended, what lies in its out.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from pipeline.errors import FoundryError
from tests.command_line import foundry
from tests.faults.small_project import COMMANDS, STAGES


def run(stage: str) -> None:
    foundry(*COMMANDS.get(stage, [stage]), *STAGES[stage])


def attempt(stage: str) -> None:
    out = Path(STAGES[stage][-1])
    try:
        run(stage)
        said, code = "done", 0
    except FoundryError as error:
        said, code = str(error), error.exit_code
    except Exception as error:  # noqa: BLE001, to be told
        said, code = f"a traceback: {error!r}", 1
    left = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    sys.stdout.write(json.dumps({"stage": stage, "said": said, "code": code, "left": left}) + "\n")
    sys.stdout.flush()


def fill(stage: str, shares: list[float]) -> None:
    """Try `stage` with an out on disks that have these shares of the room that it needs."""
    out = Path(STAGES[stage][-1])
    pages = sum(1 + path.stat().st_size // 4096 for path in out.rglob("*"))
    for share in shares:
        shutil.rmtree(".foundry/training", ignore_errors=True)
        # A size of 0 would mean any.
        room = f"size={4 * max(1, int(share * pages))}k"
        subprocess.run(["mount", "-t", "tmpfs", "-o", room, "none", str(out)], check=True)
        attempt(stage)
        subprocess.run(["umount", str(out)], check=True)


if __name__ == "__main__":
    os.environ |= {"NPROC": "1", "OMP_NUM_THREADS": "1"}
    match sys.argv[1:]:
        case ["fill", shares]:
            for name in list(STAGES)[:-1]:
                fill(name, json.loads(shares))
        case ["try"]:
            for name in STAGES:
                attempt(name)
        case _:
            for name in STAGES:
                run(name)
