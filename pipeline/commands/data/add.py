"""`foundry data add`: more images for data/raw, and what they change."""

import filecmp
import shutil
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from pipeline.adoption.intake import Intake, take_in
from pipeline.errors import FoundryError
from pipeline.ingestion.exclusions import LIST, exclusions_of
from pipeline.ingestion.sources.archive import DAMAGED, SUFFIXES
from pipeline.ingestion.sources.folder import files_below
from pipeline.ingestion.sources.layout import layout_of
from pipeline.ingestion.sources.raw import listed
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
            images stand in no folder of a class, or give the old ones other classes; nothing is changed then.
    """
    params = load_params().prepare
    if params.source != "images":
        raise FoundryError(
            f"prepare.source is {params.source}: images are added to folders of image files only (images)"
        )
    shutil.rmtree(PLACE, ignore_errors=True)
    try:
        intake = new_images(source, raw)
        if params.labelled:
            require_class_folders(source, intake.folder, raw)
        require_same_classes(source, intake.folder, raw)
        excluded = exclusions_of(raw)
        left_out = sorted(excluded & {path.as_posix() for path in files_below(intake.folder)})
        num_new = merge(intake.folder, raw)
    finally:
        shutil.rmtree(PLACE, ignore_errors=True)
    for line in intake.left_out:
        sys.stdout.write(f"left out: {line}\n")
    if left_out:
        sys.stdout.write(
            f"{listed(left_out)}: listed in {raw.parent / LIST} and so left out; `foundry data exclude --undo FILE` takes them in\n"
        )
    with waiting("giving the images to DVC"):
        dvc("add", str(raw))
    with ExitStack() as stack:
        after = stack.enter_context(open_raw(raw, params, excluded))
        if (prepared / MANIFEST).exists():
            report(open_prepared(prepared), after)
    sys.stdout.write(
        f"{raw}: {num_new} files more\napply it:  dvc repro\nkeep it:   git commit -m 'More images' {raw}.dvc\n"
        f"undo it:   git checkout {raw}.dvc && dvc checkout {raw}.dvc\n"
    )


def new_images(source: str, raw: Path) -> Intake:
    """A copy of the new images, unpacked, in folders as they will stand in `raw`.

    A single folder around those of the classes, as archives have it, is left away.

    Raises:
        FoundryError: there are none, or the archive is damaged.
    """
    intake = take_in(source, PLACE / "copy")
    files = list(intake.folder.iterdir())
    if len(files) == 1 and files[0].name.lower().endswith(SUFFIXES):
        unpacked = PLACE / "unpacked"
        try:
            if files[0].suffix.lower() == ".zip":
                shutil.unpack_archive(files[0], unpacked, "zip")
            else:
                shutil.unpack_archive(files[0], unpacked, "tar", filter="data")
        except DAMAGED as error:
            raise FoundryError(f"{source}: not a readable archive: {error}") from None
        intake = take_in(str(unpacked), PLACE / "images")
    folders, classes = list(intake.folder.iterdir()), folder_names(raw)
    if len(folders) == 1 and folders[0].name not in classes and classes & folder_names(folders[0]):
        return replace(intake, folder=folders[0])
    return intake


def folder_names(folder: Path) -> set[str]:
    """The names of the folders in a folder, which need not exist."""
    return {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()


def require_class_folders(source: str, new: Path, raw: Path) -> None:
    """Refuse images that would stand beside the folders of the classes, where they have no class.

    Raises:
        FoundryError: there are no folders in `new`, while there are some in `raw`.
    """
    classes = folder_names(raw)
    if classes and not folder_names(new):
        raise FoundryError(
            f"{source}: its images stand in no folder, wanted folders that are named by classes, such as {min(classes)}/; "
            "nothing was added"
        )


def require_same_classes(source: str, new: Path, raw: Path) -> None:
    """Refuse images beside which those that are there would have other classes or splits.

    Folders `train` and `test` are splits only where no other folder is beside them, and a folder around those of the
    classes is left away only where it is alone.

    Raises:
        FoundryError: classes or splits would change.
    """
    old = sorted(path.parts for path in files_below(raw)) if raw.is_dir() else []
    added = [path.parts for path in files_below(new)]

    def content(parts: tuple[str, ...]) -> bytes:
        return next(folder.joinpath(*parts).read_bytes() for folder in (raw, new) if folder.joinpath(*parts).exists())

    before, after = (layout_of(sorted({*files}), content)[0] for files in (old, old + added))
    for parts in old:
        was, now = ((layout.label(parts), layout.split(parts)) for layout in (before, after))
        if was != now:
            raise FoundryError(
                f"{source}: beside its folders {listed(sorted(folder_names(new)))}, {'/'.join(parts)} would be of class {now[0]} "
                f"and not {was[0]}: sort the new images into folders as in {raw}, such as {'/'.join(parts[:-1])}/; nothing was added"
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
            sys.stdout.write(f"class {name}: {f'{was} images' if was else 'new'}, now {now}\n")
