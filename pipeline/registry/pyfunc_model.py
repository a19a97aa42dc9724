"""The code of the registered model, which MLflow stores with each version and runs to load it ("models from code").

`mlflow.pyfunc.load_model("models:/fashion-mnist@champion").predict(frame, params)` draws one image per row of a data
frame. Weights are safetensors and code is this file, so nothing is unpickled.

Columns: `seed` (integer, 0 … 2^63 - 1) and `label` (class index; null or no such column: no class).
Params: `steps`, `sampler`, `guidance_scale`; by default those that the model recommends.
Returns: uint8 `[n, height, width, channels]`.
"""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd

from pipeline.artefacts.model import load_model
from pipeline.inference.draw import draw


class RegisteredModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow is untyped
    """Draws images from the model folder that was logged with it."""

    def load_context(self, context: Any) -> None:
        self.model = load_model(Path(context.artifacts["model"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> np.ndarray:  # noqa: ARG002
        defaults, asked = self.model.description.sampling, params or {}
        return draw(
            self.model,
            [int(seed) for seed in model_input["seed"]],
            self._labels(model_input),
            sampler=asked.get("sampler", defaults.sampler),
            num_steps=asked.get("steps", defaults.num_steps),
            guidance_scale=asked.get("guidance_scale", defaults.guidance_scale),
        )

    def _labels(self, frame: pd.DataFrame) -> list[int] | None:
        """Class indices, the null class for rows without a label; None for a model without classes."""
        null_label = self.model.null_label
        if null_label is None or "label" not in frame:
            return None if null_label is None else [null_label] * len(frame)
        return [null_label if pd.isna(label) else int(label) for label in frame["label"]]


mlflow.models.set_model(RegisteredModel())
