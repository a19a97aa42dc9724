"""Spaces of a search: what a file may say, and that every point of it may stand in params.yaml."""

import re
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution, IntDistribution

from pipeline.params import read_params_text
from pipeline.search.space import Space, SpaceError, as_options, changed_params

ROOT = Path(__file__).parents[2]
DOCUMENT = read_params_text((ROOT / "tests" / "params.yaml").read_text())
TEXT = """
train.learning_rate: {low: 1e-3, high: 0.1, log: true}
train.batch_size: {low: 48, high: 144, step: 48}
train.weighting: [min_snr, bounded_snr]
train.network: [{}, {widths: [48, 96], num_blocks: 1}]
"""


def _space(folder: Path, text: str) -> Space:
    path = folder / "search.yaml"
    path.write_text(text)
    return Space.read(path, DOCUMENT)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Space:
    return _space(tmp_path_factory.mktemp("space"), TEXT)


@given(seed=st.integers(0, 10_000))
def test_every_point_is_a_valid_change_of_params_yaml(seed: int, space: Space) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    changes = space.changes(study.ask(space.distributions()).params)
    params = changed_params(DOCUMENT, changes, Path("params.yaml")).model_dump(mode="json", by_alias=True)
    for key, value in changes.items():
        found: Any = params
        for part in key.split("."):
            found = found[part]
        assert found == value
    assert 1e-3 <= changes["train.learning_rate"] <= 0.1
    assert changes["train.batch_size"] in {48, 96, 144}


def test_the_present_params_are_a_point_where_they_are_inside(space: Space, tmp_path: Path) -> None:
    present = space.present(DOCUMENT)
    assert space.changes(present) == {
        "train.learning_rate": DOCUMENT["train"]["learning_rate"],
        "train.batch_size": DOCUMENT["train"]["batch_size"],
        "train.weighting": DOCUMENT["train"]["weighting"],
    }
    assert _space(tmp_path, "train.learning_rate: {low: 0.1, high: 0.2}").present(DOCUMENT) == {}


def test_a_choice_of_a_section_changes_what_it_names_alone(space: Space) -> None:
    point = space.present(DOCUMENT) | {"train.network": '{"widths": [48, 96], "num_blocks": 1}'}
    changed = changed_params(DOCUMENT, space.changes(point), Path("params.yaml")).train.network
    before = changed_params(DOCUMENT, {}, Path("params.yaml")).train.network
    assert (changed.widths, changed.num_blocks) == ((48, 96), 1)
    assert (changed.patch_size, changed.attention) == (before.patch_size, before.attention)


def test_a_range_is_of_the_kind_that_its_param_is(tmp_path: Path) -> None:
    space = _space(tmp_path, "train.weight_decay: {low: 0, high: 1}\ntrain.num_images: {low: 100, high: 200}")
    assert space.distributions() == {
        "train.weight_decay": FloatDistribution(0.0, 1.0),
        "train.num_images": IntDistribution(100, 200),
    }


def test_choices_alone_have_a_number_of_points(space: Space, tmp_path: Path) -> None:
    choices = _space(tmp_path, "train.target: [x0, v]\ntrain.num_images: [100, 200, 300]")
    assert choices.num_points == len(choices.points()) == 6
    assert space.num_points == float("inf")


def test_options_are_those_of_dvc(space: Space) -> None:
    options = list(as_options(space.changes(space.present(DOCUMENT) | {"train.network": '{"widths": [48, 96]}'})))
    assert options[-2:] == ['train.weighting="bounded_snr"', "train.network.widths=[48, 96]"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "should name params"),
        ("- train.seed", "should name params"),
        ("train: [", "not YAML"),
        ("train.sede: [1, 2]", r"params.yaml has no such key as train.sede; did you mean train\.seed\?"),
        ("train.network: [{}, {heads: 2}]", "no such key as train.network.heads"),
        ("train.seed: [1, 2]", "best of several seeds is no better recipe"),
        ("train: [{}, {seed: 2}]", "best of several seeds is no better recipe"),
        ("evaluate.num_steps: [5, 10]", "trainings that differ in evaluate cannot be compared"),
        ("train.num_images: 5", r"should be a list of choices, or a range like .* \(got 5\)"),
        ("train.num_images: [5]", "at least two different choices"),
        ("train.num_images: [5, 5]", "at least two different choices"),
        ("train.target: {low: 1, high: 2}", "is no number"),
        ("train.network: {low: 1, high: 2}", "is no number"),
        ("train.num_images: {low: 1, hihg: 2}", r"high: Field required.*hihg: Extra inputs"),
        ("train.num_images: {low: 1, high: many}", "high: .*got many"),
        ("train.num_images: {low: 2, high: 1}", r"high: should be above low 2 \(got 1\)"),
        ("train.weight_decay: {low: 0, high: 1, log: true}", "log: wants a low above 0"),
        ("train.weight_decay: {low: 0, high: .inf}", "high: .*finite"),
        ("train.learning_rate: {low: -1, high: 1}", r"train.learning_rate: should be greater than 0 \(got -1"),
        ("train.batch_size: {low: 0.5, high: 8}", "train.batch_size: should be a valid integer"),
        ("train.weighting: [snr, sqrt]", "train.weighting: should be 'uniform'"),
        (
            "train.network: [{}, {num_blocks: 1}]\ntrain.network.num_blocks: [1, 2]",
            "train.network changes train.network.num_blocks too",
        ),
    ],
)
def test_a_file_that_is_no_space_is_refused_with_the_reason(text: str, error: str, tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=error) as caught:
        _space(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "search.yaml"))


def test_all_findings_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(SpaceError) as caught:
        _space(tmp_path, "train.seed: [1, 2]\ntrain.sede: [1, 2]\nregister: [{}, {power: 0.5}]")
    assert len(str(caught.value).splitlines()) == 3


def test_values_that_do_not_fit_together_are_refused_before_the_first_training(tmp_path: Path) -> None:
    text = "schedule.zero_terminal_snr: [true, false]\ntrain.target: [v, eps]"
    error = r"train.target: should be v or x0 .* with schedule.zero_terminal_snr=true train.target=\"eps\"; what belongs together"
    with pytest.raises(SpaceError, match=error):
        _space(tmp_path, text)


def test_the_file_of_the_docs_is_a_space(tmp_path: Path) -> None:
    [text] = re.findall("```yaml\n(.*?)```", (ROOT / "docs" / "experiments.md").read_text(), re.DOTALL)
    assert len(_space(tmp_path, text).dimensions) == 4


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"search.yaml: not found"):
        Space.read(tmp_path / "search.yaml", DOCUMENT)
