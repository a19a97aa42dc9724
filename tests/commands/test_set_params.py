"""`foundry set`: params.yaml is edited in place, or left unchanged."""

import shutil
from pathlib import Path

import pytest

from pipeline.commands.set_params import set_params
from pipeline.errors import FoundryError
from pipeline.params import ParamsError, load_params

ROOT = Path(__file__).parents[2]


def test_a_change_edits_its_line_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    shutil.copyfile(ROOT / "tests" / "params.yaml", path)
    before = path.read_text().splitlines()
    seed = load_params(path).train.seed + 1
    set_params(path, [f"train.seed={seed}", "register.max_kid_rise=0.25"])
    changed = [(old, new) for old, new in zip(before, path.read_text().splitlines(), strict=True) if old != new]
    assert len(changed) == 2
    assert load_params(path).train.seed == seed
    assert load_params(path).register_.max_kid_rise == 0.25


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("train.seed", "should be KEY=VALUE"),
        ("train.sede=1", "no such key"),
        ("teaching.seed=1", "no such key"),
        ("train.seed.more=1", "no such key"),
        ("train.seed=-1", "train.seed: should be"),
    ],
)
def test_a_change_that_is_not_allowed_writes_nothing(word: str, error: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    shutil.copyfile(ROOT / "tests" / "params.yaml", path)
    with pytest.raises((FoundryError, ParamsError), match=error):
        set_params(path, [word])
    assert path.read_text() == (ROOT / "tests" / "params.yaml").read_text()
