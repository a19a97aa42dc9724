"""Data, extractor and params with which both models of a comparison are measured."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artefacts.dataset import DatasetInfo
from pipeline.artefacts.files import read_document
from pipeline.evaluation.budget import fitted
from pipeline.params import Params


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSetup:
    """The current data set, extractor and params: both models are measured with these, also a champion that was trained with others."""

    prepared: Path
    features: Path
    params: Params

    def facts(self) -> dict[str, Any]:
        """The fields of decision.json that identify the setup."""
        info = DatasetInfo.read(self.prepared / "dataset.json")
        return {
            "data_digest": info.digest,
            "extractor_digest": read_document(self.features / "extractor.json")["digest"],
            "num_images": fitted(self.params.evaluate, info).num_samples,
            "seed": self.params.evaluate.seed,
        }
