"""Datasets of digits on disk with a manifest, raw and prepared, and an untrained evaluator."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.artefacts.dataset import SPLITS, Dataset, DatasetInfo, digest_of, write_split
from pipeline.artefacts.files import write_json
from pipeline.artefacts.subset import Subset
from pipeline.evaluation.evaluator import Evaluator, save_evaluator
from pipeline.evaluation.extractors.extractor import ExtractorConfig, make_extractor
from pipeline.ingestion.manifest import write_manifest
from pipeline.params import PrepareParams
from pipeline.reporting.image_set import ImageSet, open_raw
from tests.small_sets import features_params


def write_arrays(folder: Path, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Path:
    """Write raw data of the kind `arrays`."""
    folder.mkdir(parents=True)
    np.savez(folder / "digits.npz", images=images, labels=labels)
    return folder


def prepare_arrays(raw: Path, folder: Path, params: PrepareParams) -> Dataset:
    """Prepare raw data without running the checks, which take seconds."""
    folder.mkdir(parents=True)
    with open_raw(raw, params) as images:
        accepted = images.accepted
        write_manifest(folder / "manifest.parquet", images.manifest)
        for split in SPLITS:
            rows = accepted[accepted["split"] == split]
            labels = rows["label"].to_numpy(dtype="int64")
            write_split(folder / split, rows["spool_index"].to_numpy(dtype="int64"), _reader(images, rows), labels)
    info = DatasetInfo(
        image_size=params.image_size,
        channels=params.channels,
        class_names=tuple(accepted.drop_duplicates("label").sort_values("label")["class_name"]),
        num_train=int((accepted["split"] == "train").sum()),
        num_held_out=int((accepted["split"] == "held_out").sum()),
        digest=digest_of(folder),
    )
    write_json(folder / "dataset.json", info.document())
    return Dataset.open(folder)


def _reader(images: ImageSet, rows: pd.DataFrame) -> Callable[[NDArray[np.int64]], NDArray[np.uint8]]:
    by_position = rows.set_index(rows["spool_index"].astype("int64"))
    return lambda at: images.pixels(by_position.loc[at])


def write_evaluator(folder: Path, dataset: Dataset, num_train: int = 400) -> None:
    """Write an evaluator whose network is untrained: made in milliseconds."""
    folder.mkdir(parents=True)
    spec = ExtractorConfig(
        kind="random", image_size=dataset.info.image_size, channels=dataset.info.channels, num_classes=0
    )
    train, held_out = (Subset(dataset.split(name), np.arange(len(dataset.split(name)))) for name in SPLITS)
    extractor = make_extractor(spec, features_params(), train)
    few = train.part(slice(num_train))
    save_evaluator(folder, *(Evaluator(extractor, part, extractor.features(part)) for part in (held_out, few)))
