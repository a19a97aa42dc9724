"""`foundry set`: params.yaml is edited in place, or left unchanged."""

import re
import shutil
from pathlib import Path

import pytest

from pipeline.adoption.choices import Choice
from pipeline.adoption.params_file import write_params
from pipeline.commands.set_params import set_params
from pipeline.errors import FoundryError
from pipeline.params import ParamsError, load_params
from tests.command_line import foundry

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


def test_the_reason_of_a_value_that_changes_goes_and_all_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    text = (ROOT / "tests" / "params.yaml").read_text()
    path.write_text(text)
    before = load_params(path)
    size, ratio = before.train.batch_size, before.prepare.max_class_ratio
    write_params(
        path,
        [
            Choice("prepare.max_class_ratio", ratio + 1, "as many", "half as much again"),
            Choice("train.batch_size", size, "any set", "as good as another"),
            Choice("train.augmentation.kinds", ["mirror"], "20 passes", "enough"),
        ],
    )
    set_params(path, ["train.augmentation.kinds=[]", f"prepare.max_class_ratio={ratio}", f"train.batch_size={size}"])
    line = f"  batch_size: {size}"
    assert path.read_text() == text.replace(f"{line}\n", f"{line} # any set: as good as another\n")


def test_a_list_in_lines_of_its_own_changes_whatever_stood_beside_it(tmp_path: Path) -> None:
    # As DVC writes the file in an experiment.
    path = tmp_path / "params.yaml"
    text = (ROOT / "tests" / "params.yaml").read_text()
    widths = "    widths: # 10 x 10 patches: wide enough\n    - 48\n    - 64\n"
    path.write_text(re.sub(r"    widths: .*\n", widths, text))
    set_params(path, ["train.network.widths=[64, 96]"])
    assert path.read_text() == re.sub(r"    widths: .*\n", "    widths: [64, 96]\n", text)


def test_a_number_may_be_small(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    shutil.copyfile(ROOT / "tests" / "params.yaml", path)
    set_params(path, ["train.weight_decay=0.00001"])
    assert load_params(path).train.weight_decay == 1e-5


def test_words_that_no_shell_would_read_are_named() -> None:
    with pytest.raises(FoundryError, match=r'^train.seed=1 ": should be words as for a shell: No closing quotation$'):
        foundry("set", 'train.seed=1 "')


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: [", r"params\.yaml: not YAML: "),
        ("train: {seed: 1}\ntrain: {seed: 2}\n", r"params\.yaml: not YAML: the key train stands twice"),
        ("", "train.seed: params.yaml has no such key; add `seed: INTEGER` to train$"),
    ],
)
def test_a_file_that_cannot_be_changed_is_named(text: str, error: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(FoundryError, match=error):
        set_params(path, ["train.seed=1"])
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("train.seed", "should be KEY=VALUE"),
        ("train.sede=1", r"no such key; did you mean train\.seed\?$"),
        ("teaching.xyz=1", "no such key$"),
        ("=1", "^'': params.yaml has no such key$"),
        ("train.seed.more=1", "no such key"),
        ("train.seed=-1", r"/params\.yaml: train\.seed: should be"),
        ("train.network.widths=[48", r"^train\.network\.widths=\[48: the value is not YAML: "),
        ("train.network.widths=[1e400]", r"/params\.yaml: train\.network\.widths\.0: should be"),
        (f"train.num_images={10**30}", r"/params\.yaml: train\.num_images: should be below 2\^63 \(got 10{30}\)"),
    ],
)
def test_a_change_that_is_not_allowed_writes_nothing(word: str, error: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    shutil.copyfile(ROOT / "tests" / "params.yaml", path)
    with pytest.raises((FoundryError, ParamsError), match=error):
        set_params(path, [word])
    assert path.read_text() == (ROOT / "tests" / "params.yaml").read_text()
