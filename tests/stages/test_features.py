import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from safetensors.torch import load_file

from pipeline.artefacts.dataset import Dataset
from pipeline.errors import CheckFailedError, FoundryError
from pipeline.evaluation.evaluator import load_evaluator
from pipeline.features import OUTS, check_accuracy, features
from tests.command_line import foundry
from tests.small_sets import PARAMS, features_params, write_prepared

pytestmark = pytest.mark.trains

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]


@pytest.fixture(scope="module")
def prepared(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    order = np.random.default_rng(0).permutation(len(digits[0]))
    return write_prepared(
        tmp_path_factory.mktemp("set") / "prepared", digits[0][order, ..., None], digits[1][order], 400
    )


@pytest.fixture(scope="module")
def out(prepared: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    features(prepared, folder, features_params())
    return folder


def folder_of(prepared: Dataset) -> Path:
    """The folder of the data set."""
    shard = prepared.split("train").shards[0]
    assert isinstance(shard, np.memmap)
    return Path(str(shard.filename)).parents[1]


def _floors(folder: Path) -> dict[str, float]:
    return json.loads((folder / "floors.json").read_text())


def test_the_files_are_those_of_the_contract(out: Path) -> None:
    assert sorted(path.name for path in out.iterdir()) == sorted(OUTS)


def test_a_second_run_writes_the_same_bytes(prepared: Dataset, out: Path, tmp_path: Path) -> None:
    features(prepared, tmp_path, features_params())
    for name in OUTS:
        digests = {hashlib.sha256((folder / name).read_bytes()).hexdigest() for folder in (out, tmp_path)}
        assert len(digests) == 1, name


def test_floors_are_those_of_real_images(prepared: Dataset, out: Path) -> None:
    floors = _floors(out)
    assert floors["floor/num_images"] == prepared.info.num_train // 5
    assert abs(floors["floor/kid"]) < 3 * floors["floor/kid_standard_error"]
    assert floors["floor/near_copy_share"] < 0.05
    assert floors["floor/unique_share"] > 0.95
    assert 0.2 < floors["features/honest_closeness"] < 1


def test_the_reference_is_the_held_out_split_in_another_order(prepared: Dataset, out: Path) -> None:
    tensors = load_file(out / "reference.safetensors")
    rows = tensors["held_out_index"].tolist()
    assert sorted(rows) == list(range(prepared.info.num_held_out))
    assert rows != sorted(rows)
    assert tensors["held_out"].shape == (len(rows), 96)
    assert len(set(tensors["train_index"].tolist())) == len(tensors["train"]) == prepared.info.num_train // 5


def test_the_floor_is_measured_on_images_that_are_new_to_the_classifier(prepared: Dataset, out: Path) -> None:
    # After a long training the classifier recognises all of its own images: with them, agreement would be perfect.
    features(prepared, out.parent / "long", features_params(num_images=30_000))
    evaluator = load_evaluator(out.parent / "long", prepared, "train")
    found = evaluator.extractor.classes(evaluator.features).numpy()
    assert 0.8 < (found == evaluator.real.labels).mean() < 1


def test_at_most_a_fifth_of_the_training_images_is_withheld_from_a_classifier(
    prepared: Dataset, tmp_path: Path
) -> None:
    _, floors = features(prepared, tmp_path, features_params(num_images=1000))
    assert floors["floor/num_images"] == prepared.info.num_train // 5


def test_a_set_without_labels_has_no_figures_of_classes(digits: Digits, tmp_path: Path) -> None:
    prepared = write_prepared(tmp_path / "prepared", digits[0][:80, ..., None], None, 20)
    _, floors = features(prepared, tmp_path / "out", features_params())
    assert json.loads((tmp_path / "out" / "extractor.json").read_text())["kind"] == "efficientnet_lite0"
    assert not [name for name in floors if "class" in name or "accuracy" in name]
    assert floors["floor/num_images"] == 60


@pytest.mark.parametrize(("num_train", "num_held_out"), [(40, 30), (60, 10)])
def test_too_few_images_are_refused(num_train: int, num_held_out: int, digits: Digits, tmp_path: Path) -> None:
    images = digits[0][: num_train + num_held_out, ..., None]
    prepared = write_prepared(tmp_path / "prepared", images, None, num_held_out)
    with pytest.raises(FoundryError, match=f"{num_train} training and {num_held_out} held-out images, wanted at least"):
        features(prepared, tmp_path / "out", features_params())


def test_without_a_classifier_there_is_no_accuracy_to_check() -> None:
    check_accuracy({"floor/kid": 0.0}, features_params(min_accuracy=1.0))


@pytest.mark.usefixtures("tracking_store")
def test_a_classifier_of_too_low_accuracy_fails_the_stage_after_its_figures_are_written(
    prepared: Dataset, workspace: Path
) -> None:
    document = PARAMS.model_dump(mode="json", by_alias=True)
    document["features"] |= {"num_images": 128, "min_accuracy": 0.99}
    (workspace / "params.yaml").write_text(yaml.safe_dump(document))
    shutil.copytree(folder_of(prepared), workspace / "data" / "prepared")
    with pytest.raises(CheckFailedError, match=r"features/accuracy 0\.\d+, features\.min_accuracy wants 0\.99"):
        foundry("features")
    assert _floors(workspace / "data" / "features")["features/accuracy"] < 0.99


@pytest.mark.usefixtures("tracking_store")
def test_two_classes_that_are_swapped_in_the_training_images_fail_the_stage(digits: Digits, workspace: Path) -> None:
    order = np.random.default_rng(0).permutation(len(digits[0]))
    images, labels = digits[0][order, ..., None], digits[1][order]
    train = labels[:-400]
    train[:] = np.select([train == 3, train == 7], [7, 3], train)
    write_prepared(workspace / "data" / "prepared", images, labels, 400)
    document = PARAMS.model_dump(mode="json", by_alias=True) | {"features": features_params().model_dump(mode="json")}
    (workspace / "params.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(CheckFailedError, match="images of digit 3 are mostly taken for digit 7, and those of digit 7"):
        foundry("features")
    assert _floors(workspace / "data" / "features")["features/accuracy"] > 0.7
