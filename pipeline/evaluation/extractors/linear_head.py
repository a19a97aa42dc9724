"""A linear classifier on given features, and its leave-one-out accuracy."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from torch import Tensor

RIDGES = (1e1, 1e2, 1e3, 1e4)
"""Candidates for the penalty; features have a mean variance of 1."""


@dataclass(frozen=True, eq=False, slots=True)
class LinearHead:
    """A linear classifier, fitted by least squares to one target per class."""

    weight: Tensor
    """float32 `[num_classes, f]`."""
    bias: Tensor
    """float32 `[num_classes]`."""
    recognised: NDArray[np.bool_]
    """`[n]`: whether a classifier fitted to all other images recognises the class of each image."""


def fit_head(features: Tensor, labels: NDArray[np.int64], num_classes: int) -> LinearHead:
    """Fit to features `[n, f]` of images with these labels.

    The penalty is chosen by the leave-one-out squared error, which for ridge regression has a closed form (Golub, Heath
    and Wahba 1979).
    """
    targets = np.eye(num_classes)[labels]
    ridge = RidgeCV(list(RIDGES), scoring="neg_mean_squared_error", store_cv_results=True)
    ridge.fit(features.double().numpy(), targets)
    left_out = ridge.cv_results_[..., RIDGES.index(ridge.alpha_)]
    return LinearHead(
        weight=torch.from_numpy(ridge.coef_).float(),
        bias=torch.from_numpy(ridge.intercept_).float(),
        recognised=left_out.argmax(axis=1) == labels,
    )


def recognises_more(ours: NDArray[np.bool_], others: NDArray[np.bool_]) -> bool:
    """Whether `ours` recognises more of the same images than `others` by two standard errors (McNemar 1947)."""
    gained, lost = int((ours & ~others).sum()), int((others & ~ours).sum())
    return bool(gained - lost > 2 * np.sqrt(gained + lost))
