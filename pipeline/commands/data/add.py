"""`foundry data add`: more images for data/raw, and what they change."""

import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pipeline.adoption.addition import PLACE, add_files
from pipeline.adoption.arrangement import arrange
from pipeline.adoption.change import changing_images
from pipeline.adoption.intake import Intake, take_in
from pipeline.adoption.unpacking import unpack
from pipeline.errors import FoundryError
from pipeline.ingestion.exclusions import LIST, exclusions_of
from pipeline.ingestion.sources.archive import SUFFIXES
from pipeline.ingestion.sources.folder import files_below
from pipeline.ingestion.sources.layout import Parts, layout_of
from pipeline.ingestion.sources.raw import listed
from pipeline.params import PrepareParams, load_params
from pipeline.reporting.data_change import KINDS, change_between
from pipeline.reporting.image_set import MANIFEST, ImageSet, open_prepared, open_raw


def main(source: str, raw: Path, prepared: Path) -> None:
    """Copy the images, run `dvc add`, and print how the data change.

    Raises:
        FoundryError: data/raw is no folder of image files, or holds a file of the same name and another content, or the new
            images have no classes, or give the old ones other classes; nothing is changed then.
    """
    params = load_params().prepare
    if params.source != "images":
        raise FoundryError(
            f"prepare.source is {params.source}: images are added to folders of image files only (images)"
        )
    with changing_images() as settled:
        _print(settled)
        excluded = exclusions_of(raw)
        num_new = add(source, raw, excluded, labelled=params.labelled)
    if (prepared / MANIFEST).exists():
        report_change(raw, prepared, excluded, params)
    sys.stdout.write(
        f"{raw}: {num_new} files more\napply it:  dvc repro\nkeep it:   git commit -m 'More images' {raw}.dvc\n"
        f"undo it:   git checkout {raw}.dvc && dvc checkout {raw}.dvc\n"
    )


def add(source: str, raw: Path, excluded: frozenset[str], *, labelled: bool) -> int:
    """Copy the new images into `raw`, and return how many files are there that were not."""
    with incoming(source, raw) as intake:
        new = intake.folder
        arrangement = list(arrange(new, raw, intake.name))
        require_classes(source, new, raw, labelled=labelled)
        _print([*(f"left out: {line}" for line in intake.left_out), *arrangement])
        if left_out := sorted(excluded & {path.as_posix() for path in files_below(new)}):
            undo = "`foundry data exclude --undo FILE` takes them in"
            _print([f"{listed(left_out)}: listed in {raw.parent / LIST} and so left out; {undo}"])
        return add_files(new, raw)


@contextmanager
def incoming(source: str, raw: Path) -> Iterator[Intake]:
    """A copy of the new images, which is removed unless it has been moved."""
    folder = PLACE / "new"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield new_images(source, folder, raw)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def new_images(source: str, place: Path, raw: Path) -> Intake:
    """A copy of the new images in `place`, unpacked, in folders as they will stand in `raw`.

    A single folder around those of the classes, as archives have it, is left away.

    Raises:
        FoundryError: there are none, or the archive is damaged or does not fit on the disk.
    """
    intake = take_in(source, place / "copy")
    files = list(intake.folder.iterdir())
    if len(files) == 1 and files[0].name.lower().endswith(SUFFIXES):
        left_out = unpack(source, files[0], place / "images")
        shutil.rmtree(intake.folder)
        intake = replace(intake, folder=place / "images", left_out=left_out)
    folders, classes = list(intake.folder.iterdir()), folder_names(raw)
    if len(folders) == 1 and folders[0].name not in classes and classes & folder_names(folders[0]):
        return replace(intake, folder=folders[0])
    return intake


def folder_names(folder: Path) -> set[str]:
    """The names of the folders in a folder, which need not exist."""
    return {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()


def require_classes(source: str, new: Path, raw: Path, *, labelled: bool) -> None:
    """Refuse images beside which those that are there would have other classes or splits, or that have no class themselves.

    Folders `train` and `test` are splits only where no other folder is beside them, and a folder around those of the
    classes is left away only where it is alone. With a table of classes, folders are none.

    Raises:
        FoundryError: classes or splits would change, or none of the new images has a class while old ones have some.
    """
    old = sorted(path.parts for path in files_below(raw)) if raw.is_dir() else []
    added = {path.parts for path in files_below(new)}
    before, _ = layout_of(old, _reading(raw))
    after, beside = layout_of(sorted({*old, *added}), _reading(new, raw))
    has_classes = any(map(before.label, old))
    if has_classes and after.labels and not before.labels:
        raise FoundryError(
            f"{source}: its table of classes would be that of all images, and those of {raw} have theirs from folders: "
            "sort the new images into folders too, and leave out the table; nothing was added"
        )
    for parts in old:
        for kind, was, now in (
            ("class", before.label(parts), after.label(parts)),
            ("split", before.split(parts), after.split(parts)),
        ):
            if was != now:
                raise FoundryError(
                    f"{source}: beside its folders {listed(sorted(folder_names(new)))}, {'/'.join(parts)} would be of {kind} {now} "
                    f"and not {was}: sort the new images into folders as in {raw}, such as {'/'.join(parts[:-1])}/; nothing was added"
                )
    if labelled and has_classes and not any(map(after.label, added - beside)):
        wanted = (
            f"are in no row of a metadata.csv or metadata.jsonl, as those of {raw} are"
            if after.labels
            else f"stand in no folder, wanted folders that are named by classes, such as {min(folder_names(raw))}/"
        )
        raise FoundryError(f"{source}: its images {wanted}; nothing was added")


def _reading(*folders: Path) -> Callable[[Parts], bytes]:
    """Reads a file from the first of the folders that has it."""

    def content(parts: Parts) -> bytes:
        return next(folder.joinpath(*parts) for folder in folders if folder.joinpath(*parts).exists()).read_bytes()

    return content


def report_change(raw: Path, prepared: Path, excluded: Collection[str], params: PrepareParams) -> None:
    """Print how the images differ from those that were prepared last."""
    with open_raw(raw, params, excluded) as images:
        report(open_prepared(prepared), images)


def _print(lines: Iterable[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


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
