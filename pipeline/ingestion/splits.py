"""Which images are held out: by the digest of their pixels, near-duplicates together, and some of every class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST, MOST = 0.5, 1.5
"""Range in which the number of held-out images of a class may vary by chance, as multiples of its share."""

SPLIT_BY = ("pixels_sha256", "group", "class_name")
"""Columns on which an image's split depends."""


def are_held_out(rows: pd.DataFrame, held_out_share: float) -> NDArray[np.bool_]:
    """Return whether each row is held out: `[n]`; rows have the columns `SPLIT_BY`.

    A group's place is part of its lowest digest, read as a fraction of 1; groups with places below `held_out_share` are
    held out, so that an image's split does not depend on other groups. The exception are classes, usually small ones,
    of which this would hold out less than `LEAST` or more than `MOST` times their share, or none, or all: there, groups
    are added or removed in the order of their places. A group is never divided; it counts with the class of its first
    image.
    """
    # As numbers: a Python string of a digest takes 113 bytes.
    digests = pa.array(rows["pixels_sha256"])
    order = np.asarray(pc.sort_indices(digests))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    numbers = pd.DataFrame({"group": rows["group"], "rank": rank, "stratum": rows["class_name"].factorize()[0]})
    groups = numbers.groupby("group").agg(rank=("rank", "min"), stratum=("stratum", "first"), size=("rank", "size"))
    groups["place"] = _places(digests.take(order[groups["rank"]]))
    strata = groups.sort_values(["place", "rank"]).groupby("stratum")
    held_out = pd.concat([_held_out(stratum, held_out_share) for _, stratum in strata])
    return rows["group"].map(held_out).to_numpy(dtype=bool)


def _places(digests: pa.Array) -> NDArray[np.float64]:
    """The second 64 bits of SHA-256 digests, as fractions of 1: `[n]`."""
    # Not the first digits: the lowest digest of a large group begins with zeros.
    digits = pc.utf8_slice_codeunits(digests, 16, 32)
    return np.fromiter((int(each.as_py(), 16) / 2**64 for each in digits), np.float64, len(digits))


def _held_out(groups: pd.DataFrame, share: float) -> pd.Series[bool]:
    """Whether each group of a class is held out; `groups` are sorted by `place`."""
    reached = groups["size"].cumsum()
    wanted = share * groups["size"].sum()
    held_out: pd.Series[bool] = ((groups["place"] < share) & (reached <= np.ceil(MOST * wanted))) | (
        reached <= LEAST * wanted
    )
    if len(groups) > 1:
        held_out.iloc[0], held_out.iloc[-1] = True, False
    else:
        held_out.iloc[0] = False
    return held_out
