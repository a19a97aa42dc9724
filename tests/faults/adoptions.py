"""Adopt images in copies of the working folder, each on a disk of its own that is nearly full.

    python -m tests.faults.adoptions KIBS     KIBS: JSON, the rooms in KiB that the disks have left

Prints a JSON line a disk: how it ended, and what is there once the disk has room and the next command has begun. Its
mounts need a namespace of their own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from pipeline.adoption.intake import Intake
from pipeline.adoption.replacement import EXCLUDED, PARAMS, PLACE, RAW, RECORD, settle
from pipeline.artefacts.sizes import MIB
from pipeline.commands.adopt import adopt
from pipeline.errors import FoundryError
from tests.adoption.test_plan import photographs, planned

DISK = Path("/mnt")


def adopted() -> str:
    """Replace the images; the error in words."""
    # That of photographs: what was chosen does not matter here.
    plan = planned(photographs())
    intake = Intake(PLACE / "raw", "new", num_links=0, left_out=())
    try:
        adopt(intake, plan, ())
    except FoundryError as error:
        return str(error)
    return "done"


def state() -> dict[str, str]:
    """The files that belong to the images, and the images."""
    files = [RECORD, PARAMS, EXCLUDED, *RAW.iterdir()]
    return {str(path): path.read_bytes().decode() for path in files if path.exists()}


def attempt(project: Path, kib: int) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={8 * MIB}", "none", str(DISK)], check=True)
    subprocess.run(["cp", "-a", f"{project}/.", str(DISK)], check=True)
    os.chdir(DISK)
    filler = Path("filler")
    disk = os.statvfs(DISK)
    filler.write_bytes(bytes(disk.f_bavail * disk.f_frsize - 1024 * kib))
    said, at_once = adopted(), state()
    filler.unlink()
    settle()
    sys.stdout.write(json.dumps({"kib": kib, "said": said, "at_once": at_once, "later": state()}) + "\n")
    sys.stdout.flush()
    os.chdir(project)
    subprocess.run(["umount", str(DISK)], check=True)


if __name__ == "__main__":
    for room in json.loads(sys.argv[1]):
        attempt(Path.cwd(), room)
