"""Examine all images of a source: shard by shard, by as many workers as there are, with the same result whoever they are."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd

from pipeline.cpus import num_cores
from pipeline.ingestion.decode import Wanted
from pipeline.ingestion.manifest import join
from pipeline.ingestion.near_duplicates import group_near_duplicates
from pipeline.ingestion.shards import QUARANTINED_BYTES, examine_shard, read_shard
from pipeline.ingestion.sources import RawSet
from pipeline.ingestion.spool import PixelSpool
from pipeline.ingestion.value_range import ValueRange, decided
from pipeline.ingestion.workers import in_order, num_workers
from pipeline.params import PrepareParams
from pipeline.progress import progress_bar


@dataclass(frozen=True, eq=False, slots=True)
class Examination:
    """The examined images of a source."""

    rows: pd.DataFrame
    """One per image, accepted or quarantined: those of `pipeline.ingestion.manifest.join`, with the further column `group`,
    equal for near-duplicates."""
    quarantined_bytes: dict[str, bytes]
    """Content of quarantined image files by `file`, up to about `QUARANTINED_BYTES`."""


def wanted_images(params: PrepareParams) -> Wanted:
    """How images are prepared, by params.yaml."""
    return Wanted(
        params.image_size,
        params.channels,
        background=params.background,
        min_side=params.min_side,
        value_range=ValueRange.given(params.value_range),
    )


def examine(
    open_source: Callable[[], RawSet], spool: PixelSpool, wanted: Wanted, description: str, folder: Path
) -> Examination:
    """Examine every image of a source and append the pixels of the accepted ones to `spool`.

    A source with images of more than 8 bits is read a second time if the values found in the first ask for another range.
    Progress bars named `description` are shown. Results of shards are kept in `folder` and taken from there.

    Raises:
        FoundryError: the source is damaged, or a worker died.
    """
    found = _pass(open_source(), spool, wanted, description, folder)
    if not wanted.value_range.is_given and found.rows["highest"].notna().any():
        value_range = decided(found.rows)
        if value_range != wanted.value_range:
            spool.clear()
            found = _pass(open_source(), spool, replace(wanted, value_range=value_range), description, folder)
    groups = group_near_duplicates(found.rows, spool.read)
    return replace(found, rows=found.rows.assign(group=groups))


def _pass(source: RawSet, spool: PixelSpool, wanted: Wanted, description: str, folder: Path) -> Examination:
    frames = list[pd.DataFrame]()
    kept: dict[str, bytes] = {}
    workers = num_workers(source)
    with progress_bar(name=description, unit="images", total=source.num_images) as progress:
        task = partial(
            examine_shard,
            wanted=wanted,
            folder=folder,
            num_threads=max(1, num_cores() // workers),
            advance=progress.update if workers == 1 else None,
        )
        num_images = 0
        for key in in_order(task, source.shards, workers):
            shard = read_shard(folder, key)
            spool.append_file(shard.pixels)
            frames.append(shard.rows)
            if sum(map(len, kept.values())) < QUARANTINED_BYTES:
                kept |= shard.quarantined_bytes
            num_images += len(shard.rows)
            progress.update(num_images - progress.n)
    return Examination(join(frames), kept)
