"""params.yaml gets each choice with its reason, and keeps the rest."""

import re
import shutil
from pathlib import Path

import pytest

from pipeline.adoption.choices import Choice
from pipeline.adoption.params_file import write_params
from pipeline.params import ParamsError, load_params
from tests.adoption.test_plan import photographs, planned


@pytest.fixture
def params_yaml(tmp_path: Path) -> Path:
    return Path(shutil.copyfile(Path(__file__).parents[1] / "params.yaml", tmp_path / "params.yaml"))


def test_every_choice_stands_in_the_file_with_its_reason(params_yaml: Path) -> None:
    plan = planned(photographs())
    write_params(params_yaml, plan.choices)
    assert load_params(params_yaml) == plan.params
    text = params_yaml.read_text()
    for choice in plan.choices:
        assert f"# {choice.found}: {choice.why}" in text, choice.key


def test_a_second_adoption_replaces_the_reasons_of_the_first(params_yaml: Path) -> None:
    sections = re.findall(r"\n\n\w+:", params_yaml.read_text())
    for survey in (photographs(), photographs(num_images=900, num_files=1000, class_sizes={}, coloured_share=0.0)):
        plan = planned(survey)
        write_params(params_yaml, plan.choices)
        assert load_params(params_yaml) == plan.params
    text = params_yaml.read_text()
    assert "500 pixels" in text
    assert "cats" not in text
    assert len(re.findall(r" # ", text)) == len(plan.choices)
    assert re.findall(r"\n\n\w+:", text) == sections
    write_params(params_yaml, plan.choices)
    assert params_yaml.read_text() == text


def test_a_choice_that_is_not_valid_writes_nothing(params_yaml: Path) -> None:
    before = params_yaml.read_bytes()
    with pytest.raises(ParamsError, match="image_size"):
        write_params(params_yaml, [Choice("prepare.image_size", 3, "small images", "as they are")])
    assert params_yaml.read_bytes() == before
