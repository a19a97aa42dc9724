"""A second opinion on a promotion, by EfficientNet-Lite0, which was trained on none of the project's images.

The classifier that judges is trained on the images that the models are trained on, and shares their blind spots.
"""

from pathlib import Path

import numpy as np

from pipeline.artefacts.dataset import Dataset
from pipeline.artefacts.files import read_document
from pipeline.evaluation.all_images import MAX_COMPARED, load_all
from pipeline.evaluation.paired_kid import Difference, kid_difference
from pipeline.registry.gate.evaluation_setup import EvaluationSetup

CONFIDENCE = 0.95


def second_opinion(challenger: Path, champion: Path, setup: EvaluationSetup) -> Difference | None:
    """Compare the samples in two folders of a comparison with all real images; None if this network has judged them already.

    The interval covers the luck of images alone: it is there to find a contradiction, not to confirm.
    """
    if read_document(setup.features / "extractor.json")["kind"] == "efficientnet_lite0":
        return None
    all_images = load_all(setup.features / "all_images", Dataset.open(setup.prepared))
    ours, theirs = (
        all_images.train.extractor.features(_samples(folder)[:MAX_COMPARED]) for folder in (challenger, champion)
    )
    return kid_difference(ours, theirs, all_images.features, confidence=CONFIDENCE, seed=setup.params.evaluate.seed)


def _samples(folder: Path) -> np.ndarray:
    with np.load(folder / "samples.npz") as samples:
        return np.asarray(samples["images"])
