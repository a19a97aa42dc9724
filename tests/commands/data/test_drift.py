import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.artefacts.subset import Subset
from pipeline.commands.data import drift as command
from pipeline.errors import FoundryError
from pipeline.evaluation.extractors.extractor import ExtractorConfig, make_extractor
from pipeline.params import PrepareParams
from pipeline.reporting import drift
from pipeline.reporting.drift import Drift, Reference, drift_of_images, drift_of_requests, read_reference
from pipeline.reporting.image_set import ImageSet, open_raw
from tests.image_sets import prepare_arrays, write_arrays, write_evaluator
from tests.small_sets import features_params, split_of

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]
KNOWN = 1200
"""Number of training digits; the others are new."""


@pytest.fixture
def digits(digits: Digits) -> Digits:
    """In random order: the last third is by other writers and would be drift."""
    order = np.random.default_rng(0).permutation(len(digits[0]))
    return digits[0][order], digits[1][order]


@pytest.fixture
def params(prepare_params: Callable[..., PrepareParams]) -> PrepareParams:
    return prepare_params(source="arrays", channels=1, held_out_share=0.4)


@pytest.fixture
def folders(tmp_path: Path, digits: Digits, params: PrepareParams) -> Path:
    """`prepared` and `features` of the known digits."""
    raw = write_arrays(tmp_path / "raw", digits[0][:KNOWN], digits[1][:KNOWN])
    write_evaluator(tmp_path / "features", prepare_arrays(raw, tmp_path / "prepared", params))
    return tmp_path


@pytest.fixture
def reference(folders: Path) -> Reference:
    return read_reference(folders / "prepared", folders / "features", seed=0)


@pytest.fixture
def drift_of(tmp_path: Path, reference: Reference, params: PrepareParams) -> Callable[..., Drift]:
    def made(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Drift:
        with open_raw(write_arrays(tmp_path / "new", images, labels), params) as new:
            return drift_of_images(reference, new, alpha=0.01, seed=0)

    return made


def names(found: Drift) -> set[str]:
    return {result.test.name for result in found.alarms}


def test_new_images_of_the_same_kind_are_no_drift(drift_of: Callable[..., Drift], digits: Digits) -> None:
    found = drift_of(digits[0][KNOWN:], digits[1][KNOWN:])
    assert found.counts == {"found": 597, "broken": 0, "known": 0, "compared": 597}
    assert names(found) == set()
    assert {"features", "brightness", "mix of classes"} <= {result.test.name for result in found.results}


def test_noise_is_drift_of_pixels_and_of_features(drift_of: Callable[..., Drift], digits: Digits) -> None:
    noise = np.random.default_rng(0).normal(0, 40, digits[0][KNOWN:].shape)
    noisy = np.clip(digits[0][KNOWN:] + noise, 0, 255).astype(np.uint8)
    assert {"sharpness", "features"} <= names(drift_of(noisy, digits[1][KNOWN:]))


def test_blur_is_drift_of_sharpness_and_of_features(drift_of: Callable[..., Drift], digits: Digits) -> None:
    new = digits[0][KNOWN:].astype(float)
    blurred = ((np.roll(new, 1, axis=1) + new + np.roll(new, -1, axis=1)) / 3).astype(np.uint8)
    assert {"sharpness", "features"} <= names(drift_of(blurred, digits[1][KNOWN:]))


def test_a_class_that_is_missing_is_drift_of_the_mix(drift_of: Callable[..., Drift], digits: Digits) -> None:
    kept = digits[1][KNOWN:] != 3
    assert "mix of classes" in names(drift_of(digits[0][KNOWN:][kept], digits[1][KNOWN:][kept]))


def test_images_in_the_manifest_are_not_compared(drift_of: Callable[..., Drift], digits: Digits) -> None:
    found = drift_of(digits[0][: KNOWN + 5], digits[1][: KNOWN + 5])
    assert (found.counts["known"], found.counts["compared"], names(found)) == (KNOWN, 5, set())
    assert "too few" in found.notes[0]


def test_false_alarms_are_as_rare_as_they_should_be(
    tmp_path: Path, digits: Digits, params: PrepareParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "NUM_PERMUTATIONS", 199)
    monkeypatch.setattr(drift, "NUM_SHOWN", 1)
    spec = ExtractorConfig(kind="random", image_size=8, channels=1, num_classes=0)
    extractor = make_extractor(spec, features_params(), Subset(split_of(digits[0][..., None]), np.arange(10)))
    random, alarms = np.random.default_rng(0), 0
    with open_raw(write_arrays(tmp_path / "raw", *digits), params) as everything:
        rows = everything.accepted.drop_duplicates("pixels_sha256").assign(split="train")
        for _ in range(40):
            order = random.permutation(len(rows))
            old, new = rows.iloc[order[:300]], rows.iloc[order[300:420]]
            images = everything.pixels(old)
            reference = Reference(old, None, (8, 1), "", extractor, images, extractor.features(images))
            sample = ImageSet("new", (8, 1), new, everything.pixels, {})
            alarms += bool(drift_of_images(reference, sample, alpha=0.1, seed=0).alarms)
    # At most 4 are expected; 10 or more have a chance of less than 1 in 100.
    assert alarms < 10


def test_requests_are_compared_by_class_and_count_once(reference: Reference) -> None:
    even = [{"class_label": label % 10, "n": 8} for label in range(500)]
    assert drift_of_requests(reference, even, alpha=0.01, seed=0).alarms == []
    sevens = [{"class_label": 7 if i % 3 else i % 10} for i in range(300)] + [{"class_label": None}]
    found = drift_of_requests(reference, sevens, alpha=0.01, seed=0)
    assert names(found) == {"mix of classes"}
    assert found.counts == {"requests": 301, "with a class": 300}


def test_an_incomplete_line_of_a_request_log_is_skipped(tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"
    log.write_text('{"class_label": 3, "n": 1}\n{"class_label": null}\n{"class_la')
    assert [request["class_label"] for request in command.read_requests([log])] == [3, None]
    log.write_text("a,b\n1,2\n")
    with pytest.raises(FoundryError, match="found no request"):
        list(command.read_requests([log]))
    with pytest.raises(FoundryError, match="none.jsonl"):
        list(command.read_requests([tmp_path / "none.jsonl"]))


def test_the_command_reports_drift_by_its_exit_code_and_writes_a_page(
    folders: Path, digits: Digits, root: Path, params: PrepareParams
) -> None:
    import yaml

    document = yaml.safe_load((root / "tests" / "params.yaml").read_text())
    document["prepare"] |= params.model_dump(mode="json")
    (folders / "params.yaml").write_text(yaml.safe_dump(document))
    write_arrays(folders / "inverted", 255 - digits[0][KNOWN:], digits[1][KNOWN:])
    options = ["--prepared", "prepared", "--features", "features", "--out", "out"]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "data", "drift", "inverted", *options],
        cwd=folders,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    document = json.loads((folders / "out" / "drift.json").read_text())
    assert document["drift"] is True
    assert {test["name"] for test in document["tests"] if test["drifted"]} >= {"brightness", "features"}
    page = (folders / "out" / "drift.html").read_text()
    assert "✗ drift detected" in page
    assert page.count('src="data:image/png;base64,') == 48
    assert "http" not in page.replace("http-equiv", "")
