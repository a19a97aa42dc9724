"""`foundry data add`: more images for data/raw, and what they change."""

import filecmp
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

from pipeline.adoption.intake import take_in
from pipeline.errors import FoundryError
from pipeline.params import load_params
from pipeline.progress import waiting
from pipeline.provenance.dvc import dvc
from pipeline.reporting.data_change import KINDS, change_between
from pipeline.reporting.image_set import MANIFEST, ImageSet, open_prepared, open_raw

PLACE = Path(".foundry/added")
"""Where the new images wait until all of them can be added."""


def main(source: str, raw: Path, prepared: Path) -> None:
    """Copy the images, run `dvc add`, and print how the data change.

    Raises:
        FoundryError: data/raw is no folder of image files, or holds a file of the same name and another content, or the new
            images stand in no folder of a class; nothing is changed then.
    """
    params = load_params().prepare
    if params.source != "images":
        raise FoundryError(
            f"prepare.source is {params.source}: images are added to folders of image files only (images)"
        )
    shutil.rmtree(PLACE, ignore_errors=True)
    try:
        intake = take_in(source, PLACE)
        if params.labelled:
            require_class_folders(source, intake.folder, raw)
        num_new = merge(intake.folder, raw)
    finally:
        shutil.rmtree(PLACE, ignore_errors=True)
    for line in intake.left_out:
        sys.stdout.write(f"left out: {line}\n")
    with waiting("giving the images to DVC"):
        dvc("add", str(raw))
    with ExitStack() as stack:
        after = stack.enter_context(open_raw(raw, params))
        if (prepared / MANIFEST).exists():
            report(open_prepared(prepared), after)
    sys.stdout.write(
        f"{raw}: {num_new} files more\napply it:  dvc repro\nkeep it:   git commit -m 'More images' {raw}.dvc\n"
    )


def require_class_folders(source: str, new: Path, raw: Path) -> None:
    """Refuse images that would stand beside the folders of the classes, where they have no class.

    Raises:
        FoundryError: there are no folders in `new`, while there are some in `raw`.
    """
    classes = sorted(path.name for path in raw.iterdir() if path.is_dir()) if raw.is_dir() else []
    if classes and not any(path.is_dir() for path in new.iterdir()):
        raise FoundryError(
            f"{source}: its images stand in no folder, wanted folders that are named by classes, such as {classes[0]}/; "
            "nothing was added"
        )


def merge(new: Path, raw: Path) -> int:
    """Move the files of `new` into `raw`, and return how many were not there before.

    Raises:
        FoundryError: a file of another content is there; nothing is moved then.
    """
    files = sorted(path.relative_to(new) for path in new.rglob("*") if path.is_file())
    taken = [path for path in files if (raw / path).exists()]
    other = [str(path) for path in taken if not filecmp.cmp(new / path, raw / path, shallow=False)]
    if other:
        raise FoundryError(
            f"{raw}: holds other files of the names {', '.join(other[:5])} ({len(other)} in all): rename them"
        )
    for path in set(files) - set(taken):
        (raw / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(new / path, raw / path)
    return len(files) - len(taken)


def report(before: ImageSet, after: ImageSet) -> None:
    """Print the numbers of changes and of images by class."""
    for kind, rows in change_between(before, after).items():
        if len(rows):
            sys.stdout.write(f"{len(rows)} {KINDS[kind]}\n")
    near = [images.accepted["near_duplicate_of"].notna().sum() for images in (before, after)]
    if near[1] != near[0]:
        sys.stdout.write(f"{near[1] - near[0]} more near-duplicates\n")
    counts = [images.accepted["class_name"].value_counts() for images in (before, after)]
    for name in sorted(counts[0].index.union(counts[1].index)):
        was, now = (int(count.get(name, 0)) for count in counts)
        if was != now:
            sys.stdout.write(f"class {name}: {was} images, now {now}\n")
