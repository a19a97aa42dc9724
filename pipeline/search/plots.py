"""Optuna's plots of a study, as PNG: values by trial and by param, weights of the params, held-out errors of the trainings."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import optuna
from optuna.visualization import matplotlib as optuna_plots

from pipeline.artefacts.files import replacing

PLOTS: dict[str, Callable[..., Any]] = {
    "history": optuna_plots.plot_optimization_history,
    "slices": optuna_plots.plot_slice,
    "importances": optuna_plots.plot_param_importances,
    "held_out_errors": optuna_plots.plot_intermediate_values,
}
DOTS_PER_INCH = 120


def write_plots(study: optuna.Study, folder: Path, metric: str) -> Iterator[Path]:
    """Write each plot into the folder and return the paths.

    Args:
        study: with two results at least.
        folder: that exists.
        metric: name of what is minimised.
    """
    # Optuna draws with pyplot, and there may be no screen.
    mpl.use("Agg")
    for name, plot in PLOTS.items():
        options = {} if plot is optuna_plots.plot_intermediate_values else {"target_name": metric}
        with warnings.catch_warnings():
            # That these plots are experimental, and that importances of few trials mean little.
            warnings.simplefilter("ignore")
            figure = np.ravel(plot(study, **options))[0].figure
        with replacing(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png", bbox_inches="tight", dpi=DOTS_PER_INCH)
        figure.clear()
        yield folder / f"{name}.png"
