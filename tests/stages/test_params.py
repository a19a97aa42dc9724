import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.params import Params, ParamsError, load_params, parse_params

ROOT = Path(__file__).parents[2]


def _changed(tmp_path: Path, **changes: object) -> Path:
    document = yaml.safe_load((ROOT / "tests" / "params.yaml").read_text())
    for dotted, value in changes.items():
        *sections, key = dotted.split("__")
        section = document
        for name in sections:
            section = section[name]
        section[key] = value
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.parametrize("path", ["params.yaml", "tests/params.yaml"])
def test_the_projects_params_and_those_of_the_tests_are_valid(path: str) -> None:
    assert load_params(ROOT / path).register_.model_name


def test_a_wrong_value_is_named_with_what_was_found_and_wanted(tmp_path: Path) -> None:
    path = _changed(tmp_path, train__learning_rate=-1)
    with pytest.raises(ParamsError, match=r"params.yaml: train.learning_rate: should be greater than 0 \(got -1\)$"):
        load_params(path)


def test_all_findings_are_reported_at_once(tmp_path: Path) -> None:
    path = _changed(tmp_path, train__learning_rate=-1, train__surprise=1, evaluate__num_samples="many")
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert any("train.surprise" in line for line in lines)
    assert any("evaluate.num_samples" in line and '"many"' in line for line in lines)


def test_a_number_as_dvc_writes_it_is_a_number(tmp_path: Path) -> None:
    # `dvc exp run -S train.weight_decay=0.00001`; PyYAML alone reads it as a string.
    text = (ROOT / "tests" / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("weight_decay: 0.01", "weight_decay: 1e-05"))
    assert load_params(tmp_path / "params.yaml").train.weight_decay == 1e-5


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
@pytest.mark.parametrize("key", ["train__learning_rate", "train__weight_decay", "distil__guidance_scale"])
def test_a_number_that_is_not_finite_is_rejected(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(ParamsError, match=rf"{key.replace('__', '.')}: should be a finite number \(got "):
        load_params(_changed(tmp_path, **{key: float(value.replace(".", ""))}))


@pytest.mark.parametrize("value", [True, "0", 1.5, None])
def test_a_seed_of_another_type_is_rejected(tmp_path: Path, value: object) -> None:
    with pytest.raises(ParamsError, match="train.seed"):
        load_params(_changed(tmp_path, train__seed=value))


def test_an_unknown_key_of_the_network_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="train.network.heads"):
        load_params(_changed(tmp_path, train__network__heads=3))


def test_the_networks_own_check_is_reported_as_a_finding(tmp_path: Path) -> None:
    with pytest.raises(
        ParamsError, match=r"train.network.widths: should be .* multiples of 8 up to 4096 \(got \[30\]\)"
    ):
        load_params(_changed(tmp_path, train__network__widths=[30]))


def test_a_floor_of_snr_above_its_largest_weight_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"params.yaml: schedule.snr_floor: .* at most min_snr_gamma 5.0 \(got 6.0\)"):
        load_params(_changed(tmp_path, schedule__snr_floor=6.0))


def test_error_rates_that_contradict_each_other_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(
        ParamsError, match=r"params.yaml: register.power: should be above max_false_promotion 0.05, .*0.04\)$"
    ):
        load_params(_changed(tmp_path, register__power=0.04))


def test_trained_betas_of_another_length_are_rejected(tmp_path: Path) -> None:
    path = _changed(tmp_path, schedule__betas={"kind": "trained", "values": [0.1, 0.2]})
    with pytest.raises(ParamsError, match=r"should be schedule.num_timesteps 1000 \(got 2\)"):
        load_params(path)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "train: [", "a: 2020-01-01\n", "x: .nan\n"])
def test_a_file_that_is_not_a_mapping_of_sections_is_rejected(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError, match=r"params\.yaml"):
        load_params(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="nowhere.yaml: not found"):
        load_params(tmp_path / "nowhere.yaml")


def test_every_key_is_documented() -> None:
    for section in Params.model_fields.values():
        for name, field in section.annotation.model_fields.items():  # type: ignore[union-attr]
            assert field.description, name


def test_a_size_that_the_network_cannot_halve_is_refused_before_any_stage(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"prepare\.image_size: should be a multiple of 4, .* \(got 30\)"):
        load_params(_changed(tmp_path, prepare__image_size=30))


def test_a_network_too_narrow_for_its_patches_is_refused_before_any_stage(tmp_path: Path) -> None:
    narrow = {"prepare__image_size": 32, "prepare__channels": 4, "train__network__patch_size": 4}
    with pytest.raises(ParamsError, match=r"train\.network\.widths: the first should be at least 64, .* \(got 32\)"):
        load_params(_changed(tmp_path, **narrow))
    load_params(_changed(tmp_path, **narrow, train__network__widths=[64, 64]))


def _document() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "tests" / "params.yaml").read_text())
    return document


def _keys(document: dict[str, Any], above: str = "") -> Iterator[str]:
    for key, value in document.items():
        yield f"{above}{key}"
        if isinstance(value, dict):
            yield from _keys(value, f"{above}{key}.")


def _section(document: dict[str, Any], key: str) -> tuple[Any, str]:
    """The section or list that holds a key, and the key's last part."""
    *sections, last = key.split(".")
    for name in sections:
        document = document[name]
    return document, last


@pytest.mark.parametrize("key", list(_keys(_document())))
def test_a_value_of_another_type_is_named_by_its_whole_key_and_nothing_else(key: str) -> None:
    document = _document()
    section, last = _section(document, key)
    section[last] = {"surprise": [[1]]}
    with pytest.raises(ParamsError) as caught:
        parse_params(document)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"params.yaml: {key}") for line in lines), lines


@pytest.mark.parametrize("key", [key for key in _keys(_document()) if not key.endswith(".kind")])
def test_a_misspelt_key_is_told_the_right_one(key: str) -> None:
    document = _document()
    section, last = _section(document, key)
    section[f"{last}_"] = section.pop(last)
    with pytest.raises(ParamsError) as caught:
        parse_params(document)
    assert f"params.yaml: {key}_: there is no such key; did you mean {key}?" in str(caught.value).splitlines()


@pytest.mark.parametrize("key", list(_keys(_document())))
def test_a_missing_key_is_named_with_what_to_add_and_has_no_default(key: str) -> None:
    document = _document()
    section, last = _section(document, key)
    del section[last]
    with pytest.raises(ParamsError) as caught:
        parse_params(document)
    above, _, _ = key.rpartition(".")
    [said] = str(caught.value).splitlines()
    assert said.startswith(f"params.yaml: {key}: is missing; add `{last}: ")
    assert said.endswith(f"` to {above}" if above else "`")


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("train", "add `train: {…}`"),
        ("train.network", "add `network: {…}` to train"),
        ("train.network.dropout", "add `dropout: NUMBER` to train.network"),
        ("train.augmentation.kinds", "add `kinds: […]` to train.augmentation"),
        ("train.micro_batch_size", "add `micro_batch_size: INTEGER|null` to train"),
        ("train.horizontal_flip", "add `horizontal_flip: true|false` to train"),
        ("evaluate.sampler", "add `sampler: ddpm|ddim|dpmpp_2m` to evaluate"),
        ("distil.steps", "add `steps: 1|2|4|null` to distil"),
        ("schedule.betas.kind", "add `kind: linear|scaled_linear|cosine|sigmoid|trained` to schedule.betas"),
    ],
)
def test_what_to_add_says_which_values_there_are(key: str, wanted: str) -> None:
    document = _document()
    section, last = _section(document, key)
    del section[last]
    with pytest.raises(ParamsError, match=rf"^params.yaml: {key}: is missing; {re.escape(wanted)}$"):
        parse_params(document)


def test_no_key_has_a_default_but_the_numbers_of_a_section_with_kinds() -> None:
    for section in Params.model_json_schema()["$defs"].values():
        if "kind" not in section["properties"]:
            assert set(section["required"]) == set(section["properties"]), section["title"]


def _integers(value: Any, key: str) -> Iterator[str]:
    """The keys of the integers in a document, with the positions in lists."""
    if isinstance(value, int) and not isinstance(value, bool):
        yield key
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        yield from _integers(part, f"{key}.{name}" if key else str(name))


SIZES = [key for key in _integers(_document(), "") if not key.endswith(".seed")]


@pytest.mark.parametrize("size", [2**40, 2**62])
@pytest.mark.parametrize("key", [*SIZES, "train.micro_batch_size"])
def test_an_absurd_size_is_refused_before_it_takes_memory(key: str, size: int) -> None:
    document = _document()
    section, last = _section(document, key)
    section[int(last) if isinstance(section, list) else last] = size
    with pytest.raises(ParamsError) as caught:
        parse_params(document)
    [said] = str(caught.value).splitlines()
    assert said.startswith(f"params.yaml: {key.rstrip('.0123456789')}")
    assert str(size) in said


def test_an_unknown_key_of_a_section_with_kinds_is_named_without_the_kind() -> None:
    document = _document()
    document["schedule"]["betas"] = {"kind": "cosine", "offset_": 0.1}
    with pytest.raises(
        ParamsError, match=r"schedule.betas.offset_: there is no such key; did you mean schedule.betas.offset\?$"
    ):
        parse_params(document)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("kosine", "should be one of 'linear', .*\"kosine\""), (None, "should be one of"), (..., "is missing; add")],
)
def test_a_kind_that_there_is_not_is_told_those_that_there_are(kind: object, words: str) -> None:
    document = _document()
    document["schedule"]["betas"] = {} if kind is ... else {"kind": kind}
    with pytest.raises(ParamsError, match=f"^params.yaml: schedule.betas.kind: {words}"):
        parse_params(document)


@pytest.mark.parametrize("key", ["prepare.channels", "distil.steps"])
def test_yes_is_not_taken_for_one(key: str) -> None:
    document = _document()
    section, last = _section(document, key)
    section[last] = True
    with pytest.raises(ParamsError, match=rf"^params.yaml: {key}: should be a number \(got true\)$"):
        parse_params(document)


def test_a_key_that_stands_twice_is_refused_and_the_last_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "tests" / "params.yaml").read_text().replace("  seed: 1\n", "  seed: 1\n  seed: 2\n"))
    with pytest.raises(ParamsError, match="not YAML: the key seed stands twice"):
        load_params(path)
