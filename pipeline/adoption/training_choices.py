"""What follows from the data and from what a training step costs here: size, network, batch, length, augmentation."""

import math
from collections.abc import Iterator

from pipeline.adoption.choices import Choice
from pipeline.adoption.data_choices import channels_choice
from pipeline.adoption.mirroring import highest_of_mirrorable
from pipeline.adoption.survey import Survey
from pipeline.errors import FoundryError
from pipeline.training.cost import Cost

LARGEST_SIDE, SMALL_SIDE = 64, 32
"""Sides that are considered; larger images take hours without a GPU."""
NETWORKS: tuple[tuple[int, int, tuple[int, ...]], ...] = (
    (16, 1, (32, 64)),
    (32, 2, (32, 64)),
    (64, 2, (32, 64, 96)),
    (128, 4, (96, 128, 192)),
    (512, 4, (96, 128, 192, 256)),
)
"""Largest side, patch size and least widths."""
WIDTH_PER_VALUE, WIDTH_STEP, WIDE_ENOUGH = 3, 16, 48
"""First width over the values of a patch, rounded up, at most `WIDE_ENOUGH`: wider ones were not tried. With fewer channels
than values the noise in the others stayed; with 48 for 16 values there is less of it than with 32 (DECISIONS.md)."""
LEAST_OBLONG, MOST_OBLONG, LEAST_SAME_ASPECT = 1.15, 4.0, 0.8
"""Longer over shorter side between which images are prepared oblong, if this share of them has nearly the same aspect."""
BATCH_SIZE = 96
NEEDED_IMAGES = 150_000
"""Training length below which a smaller side is better: of 1,750 drawings at 32 pixels, 20,000 images seen gave coloured
noise and 144,000 recognisable objects."""
LEAST_IMAGES = 2_000
MOST_PASSES, OVERFITTING_PASSES, AUGMENTED_PASSES = 300, 100, 300
"""Passes over the training images: the most, since a longer training would memorise the images; those from which over-fitting is
possible; and those from which augmentation pays (DECISIONS.md)."""
MEMORY_SHARE = 0.7
"""Share of the free memory that the training may take."""


def candidate_sides(survey: Survey, wanted: int | None) -> tuple[int, ...]:
    """Sides from the largest on, none larger than most sources: an enlarged image holds nothing more to learn."""
    if wanted is not None:
        return (wanted,)
    own = max(4, min(LARGEST_SIDE, survey.small_side))
    divisor = next(2 * patch for side, patch, _ in NETWORKS if own <= side)
    largest = max(4, own - own % divisor)
    return (largest, SMALL_SIDE) if largest > SMALL_SIDE else (largest,)


def size_choices(side: int, survey: Survey, wanted: int | None, why: str) -> Iterator[Choice]:
    """The size, and a network whose patches and levels divide it."""
    patch, widths = network_for(side, channels_choice(survey).value)
    found = (
        f"the shorter side has {survey.median_side} pixels in the median, {survey.small_side} or more in 9 of 10 images"
    )
    size: int | list[int] = side
    if wanted is None and is_oblong(survey):
        size = oblong(side, survey.aspect, patch * 2 ** (len(widths) - 1))
        found += f"; {survey.same_aspect_share:.0%} are {survey.aspect:.2f} times as wide as high"
    yield Choice("prepare.image_size", size, found, why)
    height, width = [size, size] if isinstance(size, int) else size
    patches = f"{height // patch} x {width // patch} patches"
    yield Choice("train.network.patch_size", patch, f"{height} x {width} pixels", f"the network sees {patches}")
    yield Choice("train.network.widths", list(widths), patches, "wide enough for them; wider takes longer")


def network_for(side: int, channels: int) -> tuple[int, tuple[int, ...]]:
    """Patch size and widths for images of this side, which the patches and levels divide.

    Fewer levels are better than smaller patches, of which there are four times as many, down to two levels.
    """
    patch, widths = next((patch, widths) for largest, patch, widths in NETWORKS if side <= largest)
    while patch >= 1:
        for num_levels in range(len(widths), 1, -1):
            if side % (patch * 2 ** (num_levels - 1)) == 0:
                return patch, wide_enough(widths[:num_levels], channels * patch**2)
        patch //= 2
    return 1, wide_enough(widths[:1], channels)


def wide_enough(widths: tuple[int, ...], num_values: int) -> tuple[int, ...]:
    """Widths of which the first fits patches of `num_values`."""
    first = min(math.ceil(WIDTH_PER_VALUE * num_values / WIDTH_STEP) * WIDTH_STEP, WIDE_ENOUGH)
    return (max(first, widths[0]), *widths[1:])


def is_oblong(survey: Survey) -> bool:
    """Whether a square would cut off much of nearly all images."""
    longer_over_shorter = max(survey.aspect, 1 / survey.aspect)
    return LEAST_OBLONG <= longer_over_shorter <= MOST_OBLONG and survey.same_aspect_share >= LEAST_SAME_ASPECT


def oblong(side: int, aspect: float, divisor: int) -> list[int]:
    """Height and width with about the area of a square: multiples of `divisor` near this aspect."""
    root = math.sqrt(aspect)
    return [max(divisor, round(each / divisor) * divisor) for each in (side / root, side * root)]


def training_choices(survey: Survey) -> Iterator[Choice]:
    """Batch size and mirroring."""
    yield Choice("train.batch_size", BATCH_SIZE, "any set", "the learning rates of params.yaml were found with it")
    accuracy = survey.mirror_accuracy
    if accuracy is None:
        found, mirrored = "too few images to learn whether mirrored ones look different", False
    else:
        limit = highest_of_mirrorable(survey.num_images)
        found = f"a classifier tells {accuracy:.1%} of the images from their mirror images, chance explains {limit:.1%}"
        mirrored = accuracy < limit
    why = "they look alike: twice as many images" if mirrored else "mirrored images would be of another kind"
    yield Choice("train.horizontal_flip", mirrored, found, why)


def length_choice(affordable: int, num_train: int, minutes: float) -> Choice:
    """The training length: what the time allows, up to `MOST_PASSES`."""
    useful = max(NEEDED_IMAGES, MOST_PASSES * num_train)
    num_images = min(affordable, useful)
    if affordable > useful:
        why = "a longer one would learn the images themselves"
    elif affordable < NEEDED_IMAGES:
        why = f"all that fits into {minutes:g} min; expect noise, and give it --minutes {_minutes_for(affordable, minutes)}"
    else:
        why = f"what fits into {minutes:g} min"
    found = f"{num_train:,} images to train on"
    return Choice("train.num_images", num_images, found, f"{num_images / num_train:.0f} passes, {why}")


def repetition_choices(num_images: int, num_train: int) -> Iterator[Choice]:
    """Augmentation, whose changes samples do not show, and an early end, where each image is seen very often."""
    passes = num_images / num_train
    found = f"{passes:.0f} passes over {num_train:,} images"
    augmented, watched = passes >= AUGMENTED_PASSES, passes >= OVERFITTING_PASSES
    why = "so many that images are learnt by heart; samples show none of it" if augmented else "too few for it to pay"
    yield Choice("train.augmentation.kinds", ["shift", "scale"] if augmented else [], found, why)
    why = "so many that the error on new images may rise" if watched else "too few to over-fit"
    yield Choice("train.stop_when_overfitting", watched, found, why)


def memory_choice(cost: Cost, memory_mib: float) -> Choice:
    """Micro-batches where a whole share of a batch does not fit into `memory_mib`.

    Raises:
        FoundryError: not even one image fits.
    """
    limit = MEMORY_SHARE * memory_mib / cost.num_processes
    found = f"a step takes {cost.process_mib / 1024:.1f} GiB in each of {cost.num_processes} processes, {memory_mib / 1024:.1f} GiB are free"
    if cost.process_mib <= limit:
        return Choice("train.micro_batch_size", None, found, "a whole batch fits")
    rows = cost.network.rows_within(limit, -(-cost.batch_size // cost.num_processes))
    if not rows:
        raise FoundryError(
            f"{found}: not one image fits; adopt with a smaller --image-size, or NPROC=1 in the environment"
        )
    return Choice("train.micro_batch_size", rows, found, "as many images at once as fit")


def _minutes_for(affordable: int, minutes: float) -> int:
    """Minutes in which the training sees `NEEDED_IMAGES`, at least."""
    return math.ceil(minutes * NEEDED_IMAGES / affordable)
