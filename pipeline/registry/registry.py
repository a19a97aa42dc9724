"""The registered model in MLflow: versions, each with its evidence as tags and metrics, and who is champion.

A version is made in steps, of which the tag `registered_at` is the last. A step that fails takes back those before it;
what a killed registration leaves has no such tag and is taken away by the next.
"""

from __future__ import annotations

import importlib.metadata
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pipeline.artefacts.model import Model
from pipeline.provenance import lineage
from pipeline.provenance.dvc import LOCK
from pipeline.registry.aliases import COMPLETE_TAG, Aliases, Decision
from pipeline.registry.lock import is_abandoned, marks
from pipeline.tracking import store
from pipeline.tracking.tags import DIGEST_TAG, PARENT_TAG, SOURCE_TAG, STAGE_TAG

REQUIREMENTS = ("torch", "numpy", "pandas", "pillow", "safetensors", "jaxtyping", "tqdm", "mlflow")
LOGGED_MODEL = "models:/"
"""What the source of a version begins with; the id of its logged model follows."""
MODEL_CODE = Path(__file__).with_name("pyfunc_model.py")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model on its way into the registry."""

    folder: Path
    model: Model
    trained_digest: str
    """The digest of the model that training made, before it was tuned: the training run has it as a tag."""
    metrics: Mapping[str, float]
    evidence: Path
    """A file that says how it was decided."""
    card: str
    """Markdown: what the model is for, and how good it is."""
    tags: Mapping[str, str]


class Registry:
    """The versions of one registered model."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._client = store.connect()
        self._experiment = store.experiment_id(self._client)
        self.succession = Aliases(self._client, self._experiment, name)

    def aliases(self) -> dict[str, str]:
        """Version by alias."""
        return self.succession.aliases()

    def metrics(self, version: str) -> dict[str, float]:
        """The metrics that the model of a version was registered with; its trial may have said otherwise since."""
        source = str(self._client.get_model_version(self.name, version).source)
        if not source.startswith(LOGGED_MODEL):
            return {}  # registered by other means
        metrics = self._client.get_logged_model(source.removeprefix(LOGGED_MODEL)).metrics
        return {metric.key: metric.value for metric in metrics or []}

    def version_of(self, digest: str) -> str | None:
        """The version that holds the model with this digest."""
        complete = [version for version in self._versions(digest) if COMPLETE_TAG in version.tags]
        return str(complete[0].version) if complete else None

    def discard_half_made(self, digest: str) -> None:
        """Take away what killed registrations of this model have left, where it is not whole."""
        if self.version_of(digest):
            return
        for version in self._versions(digest):
            if is_abandoned(version.tags):
                self._client.delete_model_version(self.name, version.version)
        wanted = f"name = '{self.name}' and tags.`{DIGEST_TAG}` = '{digest}'"
        for model in self._client.search_logged_models([self._experiment], wanted):
            if is_abandoned(model.tags):
                self._client.delete_logged_model(model.model_id)

    def add(self, candidate: Candidate, decision: Decision) -> str:
        """Log a model, make a version of it and move the aliases, all of it or nothing; returns the version.

        Raises:
            ChampionChangedError: the champion is not the one that was decided against.

        """
        maker = self._training_run(candidate.trained_digest)
        with self._run(maker) as run_id:
            with _all_or_nothing() as undo:
                self._client.log_artifact(run_id, str(candidate.evidence))
                self._client.log_text(run_id, candidate.card, "MODEL_CARD.md")
                # For `foundry runs restore`: DVC writes dvc.lock after its stages, so none of their runs has it.
                for path in filter(Path.is_file, (Path(LOCK), Path("params.yaml"))):
                    self._client.log_artifact(run_id, str(path))
                source = maker.info.run_id if maker else run_id
                model_id = self._log_model(candidate, source, undo)
                self._log_metrics(run_id, model_id, candidate.metrics)
                version = self._make_version(candidate, model_id, source, undo)
                self.succession.decide(version, decision)
            self.succession.complete()
        return version

    def _log_model(self, candidate: Candidate, source: str, undo: ExitStack) -> str:
        tags = {DIGEST_TAG: candidate.model.digest, **marks(), **candidate.tags}
        logged = self._client.create_logged_model(self._experiment, self.name, source, tags, model_type="diffusion")
        model_id = str(logged.model_id)
        undo.callback(self._client.delete_logged_model, model_id)
        with TemporaryDirectory() as folder:
            _save_pyfunc(Path(folder) / "model", candidate)
            self._client.log_model_artifacts(model_id, f"{folder}/model")
        self._client.finalize_logged_model(model_id, "READY")
        return model_id

    def _log_metrics(self, run_id: str, model_id: str, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = _milliseconds()
        entities = [Metric(key, value, now, 0, model_id=model_id, run_id=run_id) for key, value in metrics.items()]
        self._client.log_batch(run_id, metrics=entities)

    def _make_version(self, candidate: Candidate, model_id: str, source: str, undo: ExitStack) -> str:
        self._make_registered_model()
        undo.callback(self._delete_if_empty)
        tags = {DIGEST_TAG: candidate.model.digest, **marks(), **candidate.tags}
        made = self._client.create_model_version(
            self.name, f"{LOGGED_MODEL}{model_id}", source, tags=tags, description=candidate.card
        )
        undo.callback(self._client.delete_model_version, self.name, str(made.version))
        return str(made.version)

    def _make_registered_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _delete_if_empty(self) -> None:
        if not self._client.search_model_versions(f"name = '{self.name}'", max_results=1):
            self._client.delete_registered_model(self.name)

    def _versions(self, digest: str) -> list[Any]:
        found = self._client.search_model_versions(f"name = '{self.name}' and tag.`{DIGEST_TAG}` = '{digest}'")
        return list(found)

    def _training_run(self, trained_digest: str) -> Any:
        """The run that trained the model; None where the store does not have it."""
        wanted = f"tags.`{DIGEST_TAG}` = '{trained_digest}' and tags.`{STAGE_TAG}` = 'train'"
        found = self._client.search_runs([self._experiment], wanted, max_results=1)
        return found[0] if found else None

    @contextmanager
    def _run(self, maker: Any) -> Iterator[str]:
        """A run of its own for the registration, beside the training run."""
        tags = {**lineage.facts(), SOURCE_TAG: "pipeline.register", **marks()}
        if maker and (parent := maker.data.tags.get(PARENT_TAG)):
            tags[PARENT_TAG] = parent
        run_id = str(self._client.create_run(self._experiment, tags=tags, run_name="register").info.run_id)
        try:
            yield run_id
        except BaseException:
            with suppress(Exception):
                self._client.set_terminated(run_id, "FAILED")
            raise
        self._client.set_terminated(run_id, "FINISHED")


def model_folder(where: str) -> Path:
    """The model folder at a path or a URI like `models:/fashion-mnist@champion`; only to be read.

    Raises:
        StoreError: the registry does not have it, or does not answer.

    """
    return download(where) if ":/" in where else Path(where)


def download(uri: str) -> Path:
    """The model folder of a registered model, as `models:/name@alias` or `models:/name/version` names it."""
    with store.answering():
        store.connect()
        from mlflow.artifacts import download_artifacts

        return Path(download_artifacts(uri)) / "artifacts" / "model"


def _save_pyfunc(path: Path, candidate: Candidate) -> None:
    """Write the model as MLflow wants it: the folder, and the code that loads it."""
    from mlflow import pyfunc

    with warnings.catch_warnings():
        # With a data frame as example MLflow runs into a deprecation of pandas 3; the signature says the same.
        warnings.filterwarnings("ignore", message=".*input example was not provided")
        pyfunc.save_model(
            path,
            python_model=str(MODEL_CODE),
            artifacts={"model": str(candidate.folder)},
            signature=_signature(candidate.model),
            pip_requirements=[f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in REQUIREMENTS],
        )


def _signature(model: Model) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
    from mlflow.types.schema import AnyType

    sampling, (channels, height, width) = model.description.sampling, model.description.data.shape
    return ModelSignature(
        # Any: pandas makes floats of integers where one is missing.
        inputs=Schema([ColSpec(DataType.long, "seed"), ColSpec(AnyType(), "label", required=False)]),
        outputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, height, width, channels))]),
        params=ParamSchema(
            [
                ParamSpec("steps", DataType.long, sampling.num_steps),
                ParamSpec("sampler", DataType.string, sampling.sampler),
                ParamSpec("guidance_scale", DataType.double, sampling.guidance_scale),
            ]
        ),
    )


@contextmanager
def _all_or_nothing() -> Iterator[ExitStack]:
    """Callbacks that take back what was done, the last first, unless the block ends well."""
    undo = ExitStack()
    try:
        yield undo
    except BaseException:
        # A store that went away cannot be tidied now; the next registration does it.
        with suppress(Exception):
            undo.close()
        raise


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000
