from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.artefacts.dataset import DatasetInfo
from pipeline.artefacts.subset import Subset
from pipeline.errors import ArtefactError, FoundryError
from pipeline.evaluation.extractors.extractor import (
    DESCRIPTION,
    WEIGHTS,
    ConvNet,
    Extractor,
    ExtractorConfig,
    Kind,
    extractor_config,
    load_extractor,
    make_extractor,
    save_extractor,
)
from tests.small_sets import features_params, split_of

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]


def _images(count: int, size: int = 8, channels: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, channels)).astype(np.uint8)


def _selection(images: NDArray[np.uint8], labels: NDArray[np.int64] | None = None) -> Subset:
    return Subset(split_of(images, labels), np.arange(len(images)))


def _made(kind: Kind, *, size: int = 8, channels: int = 1, seed: int = 0) -> Extractor:
    images = _images(12, size, channels)
    num_classes = 3 if kind == "classifier" else 0
    config = ExtractorConfig(kind=kind, image_size=size, channels=channels, num_classes=num_classes)
    training_images = _selection(images, np.arange(12) % 3)
    return make_extractor(config, features_params(seed=seed, num_images=48), training_images)


def _info(class_names: tuple[str, ...] | None) -> DatasetInfo:
    return DatasetInfo(image_size=8, channels=1, class_names=class_names, num_train=9, num_held_out=3, digest="0" * 64)


@pytest.fixture(scope="module")
def classifier(digits: Digits) -> Extractor:
    images, labels = digits
    config = ExtractorConfig(kind="classifier", image_size=8, channels=1, num_classes=10)
    return make_extractor(config, features_params(), _selection(images[:1400, ..., None], labels[:1400]))


def test_a_classifier_recognises_most_new_digits(classifier: Extractor, digits: Digits) -> None:
    images, labels = digits
    found = classifier.classes(classifier.features(images[1400:, ..., None]))
    assert (found.numpy() == labels[1400:]).mean() > 0.92


@pytest.mark.parametrize("kind", ["classifier", "random", "efficientnet_lite0"])
@pytest.mark.parametrize(("size", "channels"), [(4, 1), (32, 3), (65, 3)])
def test_a_saved_extractor_of_any_size_loads_the_same(kind: Kind, size: int, channels: int, tmp_path: Path) -> None:
    made = _made(kind, size=size, channels=channels)
    save_extractor(tmp_path, made)
    images = _images(5, size, channels)
    again = load_extractor(tmp_path)
    assert again.config == made.config
    assert torch.equal(again.features(images), made.features(images))
    assert made.features(images).shape == (5, made.network.num_features)
    assert made.features(images).std(dim=0).max() > 0


@pytest.mark.parametrize("kind", ["classifier", "random"])
def test_an_extractor_depends_on_the_seed_alone(kind: Kind) -> None:
    images = _images(5)
    first = _made(kind).features(images)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert torch.equal(_made(kind).features(images), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(_made(kind, seed=1).features(images), first)


def test_features_of_an_image_do_not_depend_on_its_neighbours() -> None:
    extractor, images = _made("classifier"), _images(300)
    alone = torch.cat([extractor.features(images[row : row + 1]) for row in (0, 200, 299)])
    assert torch.allclose(extractor.features(images)[[0, 200, 299]], alone, atol=1e-5)


def test_grey_images_have_the_features_of_their_rgb_copies() -> None:
    grey, network = torch.rand(2, 1, 16, 16), _made("efficientnet_lite0", size=16).network
    with torch.no_grad():
        assert torch.allclose(network.activations(grey), network.activations(grey.expand(-1, 3, -1, -1)), atol=1e-5)


def test_auto_is_a_classifier_if_there_are_classes() -> None:
    params = features_params(extractor="auto")
    assert extractor_config(params, _info(("a", "b"))).kind == "classifier"
    assert extractor_config(params, _info(("a",))).kind == "efficientnet_lite0"
    assert extractor_config(params, _info(None)).kind == "efficientnet_lite0"


def test_a_classifier_without_two_classes_is_refused() -> None:
    with pytest.raises(FoundryError, match=r"features\.extractor: classifier needs at least two classes .* has 1"):
        extractor_config(features_params(extractor="classifier"), _info(("a",)))


def test_only_a_classifier_predicts_classes() -> None:
    for kind in ("random", "efficientnet_lite0"):
        extractor = _made(kind)
        with pytest.raises(FoundryError, match="is no classifier"):
            extractor.classes(extractor.features(_images(2)))


def test_an_untrained_network_keeps_the_scale_of_its_input() -> None:
    assert 0.1 < float(_made("random", size=28).features(_images(50, 28)).square().mean()) < 10


def test_large_images_take_about_as_much_work_as_small_ones() -> None:
    sizes = [sum(p.numel() for p in ConvNet(image_size=s, channels=1, num_classes=2).parameters()) for s in (28, 112)]
    assert sizes[1] < 1.2 * sizes[0]


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    save_extractor(tmp_path, _made("random"))
    content = bytearray((tmp_path / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (tmp_path / WEIGHTS).write_bytes(content)
    with pytest.raises(ArtefactError, match=rf"{WEIGHTS}: SHA-256 is \w+, {DESCRIPTION} wants"):
        load_extractor(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"kind": "random"', '"kind": "inception"', "kind: should be classifier, efficientnet_lite0, random"),
        ('"channels": 1', '"channels": 3', f"does not fit {DESCRIPTION}"),
        ('"channels": 1,', "", "should hold channels"),
        ("{", "", "not JSON"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    save_extractor(tmp_path, _made("random"))
    description = tmp_path / DESCRIPTION
    description.write_text(description.read_text().replace(old, new, 1))
    with pytest.raises(ArtefactError, match=message):
        load_extractor(tmp_path)


def test_a_missing_extractor_is_reported_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"extractor\.json: No such file"):
        load_extractor(tmp_path)
