"""The registered model in MLflow's format: the model folder, the code that draws from it, and what that needs.

It works without this project: `mlflow.pyfunc.load_model`, `mlflow models predict` and `mlflow models serve` need no more
than its own requirements.txt.
"""

import importlib.metadata
import shutil
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from pipeline.artefacts.model import Model
from pipeline.evaluation.figures import ORIGINS
from pipeline.provenance import lineage
from pipeline.tracking import store
from pipeline.tracking.tags import DIGEST_TAG, SOURCE_TAG

REQUIREMENTS = ("torch", "numpy", "pandas", "pillow", "safetensors", "jaxtyping", "tqdm", "mlflow")
MODEL_CODE = Path(__file__).with_name("pyfunc_model.py")
PACKAGE = Path(__file__).parents[1]
NEEDED = ("__init__.py", "errors.py", "device.py", "progress.py", "artefacts", "diffusion", "inference")
"""The modules and rooms of this package that MODEL_CODE needs; a version holds a copy of them."""


def save_logged_model(path: Path, model_folder: Path, model: Model) -> None:
    """Write a model folder, and the code that loads it, to the new folder `path`."""
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        # MLflow's own reading of the example runs into a deprecation of pandas 3.
        warnings.simplefilter("ignore", DeprecationWarning)
        code = Path(folder) / PACKAGE.name
        for name in NEEDED:
            _copy(PACKAGE / name, code / name)
        store.mlflow().pyfunc.save_model(
            path,
            python_model=str(MODEL_CODE),
            artifacts={"model": str(model_folder)},
            code_paths=[str(code)],
            signature=_signature(model),
            input_example=_example(model),
            pip_requirements=[f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in REQUIREMENTS],
        )


def log_figures(client: Any, run_id: str, model_id: str, metrics: Mapping[str, float]) -> None:
    """Log the model's own figures, with the data set: floors and baseline, which would fill the charts, are in the card."""
    metric, now, digest = store.mlflow().entities.Metric, time.time_ns() // 1_000_000, lineage.data_digest()
    origin = {"model_id": model_id, "run_id": run_id}
    if digest:
        data = store.dataset(digest).dataset
        origin |= {"dataset_name": data.name, "dataset_digest": data.digest}
    own = {key: value for key, value in metrics.items() if key.startswith(f"{ORIGINS[0]}/")}
    client.log_batch(run_id, metrics=[metric(key, value, now, 0, **origin) for key, value in own.items()])


def link_to_runs(client: Any, model_id: str, trained_digest: str) -> None:
    """Show a logged model as the output of its pipeline and training, and as the input of its evaluation."""
    entities = store.mlflow().entities
    for run in client.search_runs([store.experiment_id(client)], f"tags.`{DIGEST_TAG}` = '{trained_digest}'"):
        match run.data.tags.get(SOURCE_TAG):
            case "pipeline" | "pipeline.train":
                client.log_outputs(run.info.run_id, [entities.LoggedModelOutput(model_id, step=0)])
            case "pipeline.evaluate":
                client.log_inputs(run.info.run_id, models=[entities.LoggedModelInput(model_id)])


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, target)


def _example(model: Model) -> pd.DataFrame:
    """Two images."""
    labels = {} if model.null_label is None else {"label": [0, None]}
    return pd.DataFrame({"seed": [0, 1], **labels})


def _signature(model: Model) -> Any:
    types, kinds = store.mlflow().types, store.mlflow().types.DataType
    sampling, (channels, height, width) = model.description.sampling, model.description.data.shape
    # Any: pandas turns integers into floats where one is missing.
    label = types.ColSpec(types.schema.AnyType(), "label", required=False)
    params = [
        types.ParamSpec("steps", kinds.long, sampling.num_steps),
        types.ParamSpec("sampler", kinds.string, sampling.sampler),
        types.ParamSpec("guidance_scale", kinds.double, sampling.guidance_scale),
    ]
    return store.mlflow().models.ModelSignature(
        inputs=types.Schema([types.ColSpec(kinds.long, "seed"), label]),
        outputs=types.Schema([types.TensorSpec(np.dtype(np.uint8), (-1, height, width, channels))]),
        params=types.ParamSchema(params),
    )
