"""What follows from the data alone: how they are read, the limits of their checks, the model's name."""

import math
from collections.abc import Iterator

from pipeline.adoption.choices import Choice
from pipeline.adoption.survey import MOST_OUTSIDE, Survey

LEAST_COLOURED = 0.01
"""Share of coloured images from which the set is in colour."""
LEAST_TRANSPARENT = 0.9
"""Share of images with transparent parts from which alpha belongs to them; below it some merely came without background."""
LEAST_CLASS_SIZE, LEAST_TYPICAL_CLASS_SIZE = 2, 20
"""Images of the smallest class, of which one can be held out, and of the median class."""
WANTED_HELD_OUT, LEAST_HELD_OUT_SHARE, MOST_HELD_OUT_SHARE = 200, 0.1, 0.25
UNUSED = "not used without classes"
SLACK = 0.02
"""Margin by which new data may be worse than the surveyed ones before a check fails, as a share of the images."""


def data_choices(survey: Survey, name: str) -> Iterator[Choice]:
    """Sections `prepare`, but for the size, `features` and `register`."""
    classes = _classes_in_words(survey)
    yield Choice("prepare.source", survey.kind, f"{survey.num_files:,} files", "the reader for this kind of data")
    yield _labelled(survey)
    has_classes = len(survey.class_sizes) > 1
    why = "classes are named by their folders or numbers" if has_classes else UNUSED
    yield Choice("prepare.class_names", None, classes, why)
    yield channels_choice(survey)
    yield Choice("prepare.min_side", survey.least_side, _sides_in_words(survey), "smaller ones are left out")
    yield _held_out_share(survey)
    yield from _limits(survey)
    why = (
        "a classifier of the classes, unless the bundled network recognises more"
        if has_classes
        else "the bundled network"
    )
    yield Choice("features.extractor", "auto", classes, why)
    chance = round(1 / len(survey.class_sizes), 3) if has_classes else 0.0
    why = (
        "chance; an extractor that recognises fewer is of no use, a better one measures better"
        if has_classes
        else UNUSED
    )
    yield Choice("features.min_accuracy", chance, classes, why)
    yield Choice("register.model_name", name, "the name of what was adopted", "models:/NAME@champion serves it")


def _limits(survey: Survey) -> Iterator[Choice]:
    """The limits of the checks: what was found passes, and new data that are worse do not."""
    n = round(survey.num_images * (1 - survey.tiny_share))
    yield Choice("prepare.min_num_images", max(2, round(0.9 * n)), f"{n:,} images", "a tenth may go missing")
    for key, share, what in (
        ("max_broken_share", 1 - n / survey.num_files, "of the files cannot be used"),
        ("max_duplicate_share", survey.duplicate_share, "of the images repeat the pixels of another"),
        ("max_blank_share", survey.blank_share, "of the images have one pixel value"),
        ("max_noise_share", survey.noise_share, "of the images look like noise"),
    ):
        yield Choice(f"prepare.{key}", _with_slack(share), f"{share:.1%} {what}", "what was found, and a little more")
    sizes = survey.class_sizes.values()
    ratio = max(sizes) / min(sizes) if sizes else 1.0
    found = f"the largest class has {ratio:.1f} times the images of the smallest" if sizes else "no classes"
    why = "half as much again" if sizes else UNUSED
    yield Choice("prepare.max_class_ratio", float(max(3, math.ceil(1.5 * ratio))), found, why)


def _labelled(survey: Survey) -> Choice:
    sizes = sorted(survey.class_sizes.values())
    found = _classes_in_words(survey)
    if len(sizes) < 2:
        return Choice("prepare.labelled", value=False, found=found, why="a model without classes")
    if survey.outside_share > MOST_OUTSIDE:
        why = f"{survey.outside_share:.0%} of the images are in no class and would be lost"
        return Choice("prepare.labelled", value=False, found=found, why=why)
    typical = sizes[len(sizes) // 2]
    if typical < LEAST_TYPICAL_CLASS_SIZE:
        why = f"half of the classes have at most {typical} images, too few to learn what a class is"
        return Choice("prepare.labelled", value=False, found=found, why=why)
    if sizes[0] < LEAST_CLASS_SIZE:
        why = f"the class {_smallest(survey)} has a single image; `foundry data exclude` it and adopt data/raw again to have classes"
        return Choice("prepare.labelled", value=False, found=found, why=why)
    return Choice("prepare.labelled", value=True, found=found, why="one can ask for a class")


def channels_choice(survey: Survey) -> Choice:
    """Grey, RGB, or RGB and alpha."""
    found = (
        f"{survey.coloured_share:.0%} of the images are coloured, {survey.transparent_share:.0%} have transparent parts"
    )
    if survey.transparent_share >= LEAST_TRANSPARENT:
        return Choice("prepare.channels", 4, found, "RGB and alpha; 3 would put them on white")
    white = "; what is transparent becomes white" if survey.transparent_share else ""
    is_coloured = survey.coloured_share >= LEAST_COLOURED
    return Choice("prepare.channels", 3 if is_coloured else 1, found, f"{'RGB' if is_coloured else 'grey'}{white}")


def _held_out_share(survey: Survey) -> Choice:
    share = min(MOST_HELD_OUT_SHARE, max(LEAST_HELD_OUT_SHARE, WANTED_HELD_OUT / survey.num_images))
    if survey.has_own_split:
        return Choice("prepare.held_out_share", LEAST_HELD_OUT_SHARE, "the data have a split", "is not used")
    why = f"about {WANTED_HELD_OUT} images to judge by, at most a quarter"
    return Choice("prepare.held_out_share", math.ceil(100 * share) / 100, f"{survey.num_images:,} images", why)


def _sides_in_words(survey: Survey) -> str:
    return f"{survey.tiny_share:.1%} of the images have a side of less than {survey.least_side} pixels"


def _with_slack(share: float) -> float:
    return min(1.0, math.ceil(100 * (share + SLACK)) / 100)


def _classes_in_words(survey: Survey) -> str:
    sizes = survey.class_sizes
    if not sizes:
        return "no class folders or labels"
    if len(sizes) == 1:
        return "a single class"
    return f"{len(sizes)} classes of {min(sizes.values()):,} ({_smallest(survey)}) to {max(sizes.values()):,} images"


def _smallest(survey: Survey) -> str:
    return min(survey.class_sizes, key=lambda name: survey.class_sizes[name])
