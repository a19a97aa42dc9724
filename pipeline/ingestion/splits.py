"""Which images are held out: by the digest of their pixels, near-duplicates together, and some of every class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST, MOST = 0.5, 1.5
"""Range in which the number of held-out images of a class may vary by chance, as multiples of its share."""

SPLIT_BY = ("pixels_sha256", "group", "class_name")
"""Columns on which an image's split depends."""


def split_of(rows: pd.DataFrame, held_out_share: float) -> NDArray[np.str_]:
    """Return `held_out` or `train` for each row with the columns `SPLIT_BY`.

    A group's place is part of its lowest digest, read as a fraction of 1; groups with places below `held_out_share` are
    held out, so that an image's split does not depend on other groups. The exception are classes, usually small ones,
    of which this would hold out less than `LEAST` or more than `MOST` times their share, or none, or all: there, groups
    are added or removed in the order of their places. A group is never divided; it counts with the class of its first
    image.
    """
    groups = (
        rows.assign(stratum=rows["class_name"].fillna(""))
        .groupby("group")
        .agg(digest=("pixels_sha256", "min"), stratum=("stratum", "first"), size=("pixels_sha256", "size"))
    )
    # Not the first digits: the lowest digest of a large group begins with zeros.
    groups["place"] = groups["digest"].map(lambda digest: int(digest[16:32], 16) / 2**64)
    strata = groups.sort_values(["place", "digest"]).groupby("stratum")
    held_out = pd.concat([_held_out(stratum, held_out_share) for _, stratum in strata])
    return np.where(rows["group"].map(held_out).to_numpy(dtype=bool), "held_out", "train")


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
