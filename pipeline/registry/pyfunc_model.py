"""The code of the registered model, which MLflow stores with each version and runs to load it ("models from code").

`mlflow.pyfunc.load_model("models:/fashion-mnist@champion").predict(frame, params)` draws one image per row of a data
frame; so do `mlflow models predict` and `mlflow models serve`. Weights are safetensors, code is this file and the rooms of
the pipeline that it needs, stored beside it: nothing is unpickled, and this project need not be installed.

Columns: `seed` (integer, 0 … 2^63 - 1) and `label` (class index; null or no such column: no class).
Params: `steps`, `sampler`, `guidance_scale`; by default those that the model recommends.
Returns: uint8 `[n, height, width, channels]`.
"""

import math
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from pipeline.artefacts.model import load_model
from pipeline.diffusion.samplers import SAMPLERS, Sampler
from pipeline.diffusion.seeds import NUM_SEEDS
from pipeline.errors import FoundryError
from pipeline.inference.draw import draw


class InvalidInputError(FoundryError, MlflowException):  # type: ignore[misc]  # mlflow is untyped
    """The rows or the params are invalid. MLflow's server sends its client only the messages of its own errors."""

    def __init__(self, message: str) -> None:
        MlflowException.__init__(self, message, error_code=INVALID_PARAMETER_VALUE)


class RegisteredModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow is untyped
    """Draws images from the model folder that was logged with it."""

    def load_context(self, context: Any) -> None:
        self.model = load_model(Path(context.artifacts["model"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> np.ndarray:  # noqa: ARG002
        """Draw the images.

        Raises:
            InvalidInputError: a row or a param is invalid; the message names it.
        """
        defaults, asked = self.model.description.sampling, params or {}
        try:
            return draw(
                self.model,
                self._seeds(model_input),
                self._labels(model_input),
                sampler=_known(asked.get("sampler", defaults.sampler)),
                num_steps=asked.get("steps", defaults.num_steps),
                guidance_scale=_finite(asked.get("guidance_scale", defaults.guidance_scale)),
            )
        except FoundryError as error:
            raise InvalidInputError(str(error)) from error

    def _seeds(self, frame: pd.DataFrame) -> list[int]:
        seeds = [int(seed) for seed in frame["seed"]]
        if wrong := [seed for seed in seeds if not 0 <= seed < NUM_SEEDS]:
            raise FoundryError(f"seed: should be 0 … 2^63 - 1 (got {wrong[0]})")
        return seeds

    def _labels(self, frame: pd.DataFrame) -> list[int] | None:
        """Class indices, the null class for rows without a label; None for a model without classes."""
        null_label = self.model.null_label
        given = [None if pd.isna(label) else label for label in frame.get("label", [None] * len(frame))]
        if wrong := [label for label in given if label is not None and label not in range(null_label or 0)]:
            wanted = "null, as the model has no classes" if null_label is None else f"0 … {null_label - 1} or null"
            raise FoundryError(f"label: should be {wanted} (got {wrong[0]})")
        return None if null_label is None else [null_label if label is None else int(label) for label in given]


def _known(sampler: str) -> Sampler:
    if sampler not in SAMPLERS:
        raise FoundryError(f"sampler: should be one of {', '.join(SAMPLERS)} (got {sampler})")
    return sampler


def _finite(scale: float) -> float:
    if not math.isfinite(scale):
        raise FoundryError(f"guidance_scale: should be a finite number (got {scale})")
    return scale


mlflow.models.set_model(RegisteredModel())
