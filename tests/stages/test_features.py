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
from pipeline.evaluation.choose_extractor import select
from pipeline.features import OUTS, check_accuracy, features
from tests.command_line import foundry
from tests.small_sets import PARAMS, features_params, write_prepared

pytestmark = pytest.mark.trains

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]


@pytest.fixture(scope="module")
def prepared(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    rows = np.random.default_rng(0).permutation(len(digits[0]))[:1000]
    folder = tmp_path_factory.mktemp("set") / "prepared"
    return write_prepared(folder, digits[0][rows, ..., None], digits[1][rows], 250)


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


def kind_of(out: Path) -> str:
    """The kind of the extractor."""
    kind: str = json.loads((out / "extractor.json").read_text())["kind"]
    return kind


def _floors(folder: Path) -> dict[str, float]:
    return json.loads((folder / "floors.json").read_text())


def test_the_files_are_those_of_the_contract(out: Path) -> None:
    assert sorted(path.name for path in out.iterdir()) == sorted(OUTS)


def test_a_second_run_writes_the_same_bytes(prepared: Dataset, out: Path, tmp_path: Path) -> None:
    features(prepared, tmp_path, features_params())
    first, second = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (out, tmp_path)
    )
    assert first == second


def test_floors_are_those_of_real_images(prepared: Dataset, out: Path) -> None:
    floors = _floors(out)
    assert floors["floor/num_images"] == prepared.info.num_train // 5
    assert abs(floors["floor/kid"]) < 3 * floors["floor/kid_standard_error"]
    assert floors["floor/near_copy_share"] < 0.05
    assert floors["floor/unique_share"] > 0.95
    assert (
        floors["floor/class_agreement"] == floors["features/accuracy"] == floors["features/classifier_accuracy"] > 0.9
    )
    assert abs(floors["floor/kid_to_all"]) < 3 * floors["floor/kid_to_all_standard_error"]
    assert 0.2 < floors["features/honest_closeness"] < 1


def test_the_reference_is_the_held_out_split_in_another_order(prepared: Dataset, out: Path) -> None:
    tensors = load_file(out / "reference.safetensors")
    rows = tensors["held_out_index"].tolist()
    assert sorted(rows) == list(range(prepared.info.num_held_out))
    assert rows != sorted(rows)
    assert tensors["held_out"].shape == (len(rows), 96)
    assert len(set(tensors["train_index"].tolist())) == len(tensors["train"]) == prepared.info.num_train // 5


def test_the_classifier_was_not_trained_on_the_training_images_of_the_reference(prepared: Dataset) -> None:
    training, new, held_out = select(prepared, seed=0, is_trained=True)
    assert not set(training.rows) & set(new.rows)
    assert len(training) + len(new) == prepared.info.num_train
    assert len(new) == prepared.info.num_train // 5
    assert len(held_out) == prepared.info.num_held_out
    assert len(select(prepared, seed=0, is_trained=False)[1]) == prepared.info.num_train


def test_a_set_without_labels_has_no_figures_of_classes(digits: Digits, tmp_path: Path) -> None:
    prepared = write_prepared(tmp_path / "prepared", digits[0][:80, ..., None], None, 20)
    _, floors = features(prepared, tmp_path / "out", features_params())
    assert kind_of(tmp_path / "out") == "efficientnet_lite0"
    assert not [name for name in floors if "class" in name or "accuracy" in name]
    assert floors["floor/num_images"] == 60


def test_a_classifier_that_recognises_fewer_images_gives_way_to_the_bundled_network(
    digits: Digits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = write_prepared(tmp_path / "prepared", digits[0][:500, ..., None], digits[1][:500], 200)
    # Three batches teach it next to nothing.
    params = features_params(num_images=384)
    _, floors = features(prepared, tmp_path / "auto", params)
    assert kind_of(tmp_path / "auto") == "efficientnet_lite0"
    assert floors["features/classifier_accuracy"] < floors["features/bundled_accuracy"] - 0.1
    # All 500 images, each judged by a head that has not seen it.
    assert floors["features/accuracy"] == floors["floor/class_agreement"] > 0.8
    assert floors["floor/class_agreement_standard_error"] < 0.02
    assert f"EfficientNet-Lite0 {floors['features/bundled_accuracy']:.1%}" in capsys.readouterr().out
    features(prepared, tmp_path / "asked", params.model_copy(update={"extractor": "classifier"}))
    assert kind_of(tmp_path / "asked") == "classifier"


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
    document["features"] |= {"extractor": "classifier", "num_images": 128, "min_accuracy": 0.99}
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
