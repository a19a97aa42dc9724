"""The line with which a retraining begins."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from pipeline.evaluation.results import write_results
from pipeline.ingestion.exclusions import write_exclusions
from pipeline.params import PrepareParams
from tests.command_line import foundry
from tests.image_sets import prepare_arrays, write_arrays, write_evaluator
from tests.small_sets import PARAMS

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]
KNOWN = 1000


@pytest.fixture
def digits(digits: Digits) -> Digits:
    """In random order: the last third is by other writers and would be drift."""
    order = np.random.default_rng(0).permutation(len(digits[0]))
    return digits[0][order], digits[1][order]


@pytest.fixture
def says(
    workspace: Path,
    digits: Digits,
    prepare_params: Callable[..., PrepareParams],
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., str]:
    """What the command says about raw data, after a run on the first digits."""
    params = prepare_params(source="arrays", channels=1, held_out_share=0.4)
    document = PARAMS.model_dump(mode="json", by_alias=True) | {"prepare": params.model_dump(mode="json")}
    (workspace / "params.yaml").write_text(yaml.safe_dump(document))
    known = tuple(each[:KNOWN] for each in digits)
    dataset = prepare_arrays(write_arrays(workspace / "data/raw", *known), workspace / "data/prepared", params)
    write_evaluator(workspace / "data/features", dataset)
    (workspace / "data/evaluation").mkdir()
    write_results(workspace / "data/evaluation", {"evaluate/kid": 0.001, "baseline/kid": 0.05})

    def made(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> str:
        shutil.rmtree(workspace / "data/raw")
        write_arrays(workspace / "data/raw", images, labels)
        md5 = hashlib.md5(images.tobytes() + labels.tobytes(), usedforsecurity=False).hexdigest()
        (workspace / "data/raw.dvc").write_text(f"outs: [{{path: raw, md5: {md5}}}]")
        capsys.readouterr()
        foundry("data", "changed")
        return capsys.readouterr().out

    known_md5 = hashlib.md5(known[0].tobytes() + known[1].tobytes(), usedforsecurity=False).hexdigest()
    (workspace / "dvc.lock").write_text(f"stages: {{prepare: {{deps: [{{path: data/raw, md5: {known_md5}}}]}}}}")
    return made


def test_the_same_data_are_not_even_opened(says: Callable[..., str], digits: Digits, workspace: Path) -> None:
    shutil.rmtree(workspace / "data/prepared")
    assert says(digits[0][:KNOWN], digits[1][:KNOWN]) == "data: as in the last run\n"


def test_more_images_of_the_same_kind_are_counted(says: Callable[..., str], digits: Digits) -> None:
    assert says(*digits) == "data: 797 added; no drift found\n"


def test_inverted_images_are_unlike_the_old_ones_as_a_whole(says: Callable[..., str], digits: Digits) -> None:
    said = says(255 - digits[0], digits[1])
    assert said.startswith("data: 1,797 added, 1,000 removed; UNLIKE THE OLD ONES AS A WHOLE: KID ")
    assert "The champion fails on them" in said


def test_swapped_classes_are_counted(says: Callable[..., str], digits: Digits) -> None:
    images, labels = digits[0][:KNOWN], digits[1][:KNOWN]
    swapped = np.select([labels == 3, labels == 7], [7, 3], labels)
    assert f"{(swapped != labels).sum()} relabelled" in says(images, swapped)


def test_without_the_images_of_the_last_run_the_retraining_goes_on(
    says: Callable[..., str], digits: Digits, workspace: Path
) -> None:
    shutil.rmtree(workspace / "data/prepared")
    said = says(*digits)
    assert said.startswith("data: changed, and not compared with those of the last run: ")
    assert "data/prepared" in said


def test_images_that_are_left_out_are_removed_and_not_there_anew(
    says: Callable[..., str], digits: Digits, workspace: Path
) -> None:
    write_exclusions(workspace / "data/excluded.txt", [f"digits.npz#{number}" for number in (0, 1, KNOWN)])
    assert says(*digits) == "data: 796 added, 2 removed; no drift found\n"


def test_a_list_of_other_images_to_leave_out_is_a_change(
    says: Callable[..., str], digits: Digits, workspace: Path
) -> None:
    write_exclusions(workspace / "data/excluded.txt", ["digits.npz#5"])
    assert says(digits[0][:KNOWN], digits[1][:KNOWN]) == "data: 1 removed; no drift found\n"
