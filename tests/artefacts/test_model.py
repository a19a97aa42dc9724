import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.artefacts.model import DataSpec, Description, build_network, load_model, model_digest, save_model
from pipeline.artefacts.sampling_defaults import DEFAULT_SAMPLING
from pipeline.artefacts.tensors import load_tensors, save_tensors
from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.errors import FoundryError
from tests.small_sets import SMALL_NETWORK

DESCRIPTION = Description(
    data=DataSpec(image_size=8, channels=1, class_names=("cat", "dog"), sigma_data=0.5),
    network=SMALL_NETWORK,
    target="v",
    sampling=DEFAULT_SAMPLING,
    timetables={"ddim": {"2": (9, 4)}},
    provenance={"data_digest": "d"},
)
SCHEDULE = NoiseSchedule(cosine_betas(10))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, DESCRIPTION, weights=build_network(DESCRIPTION, seed=3).state_dict(), schedule=SCHEDULE)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def test_an_image_size_that_the_network_cannot_halve_names_the_parameters() -> None:
    description = replace(DESCRIPTION, data=replace(DESCRIPTION.data, image_size=9))
    with pytest.raises(FoundryError, match=r"train\.network: image_size 9 .* multiple of 2.*prepare\.image_size"):
        build_network(description, seed=0)


def test_a_saved_model_comes_back_the_same(folder: Path) -> None:
    model, network = load_model(folder), build_network(DESCRIPTION, seed=3)
    assert model.description == DESCRIPTION
    assert torch.equal(model.schedule.beta, SCHEDULE.beta)
    assert all(torch.equal(a, b) for a, b in zip(model.network.parameters(), network.parameters(), strict=True))
    assert not model.network.training
    assert model.null_label == 2


def test_the_same_model_has_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    save_model(again, DESCRIPTION, weights=build_network(DESCRIPTION, seed=3).state_dict(), schedule=SCHEDULE)
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()


def test_the_digest_tells_models_apart_but_not_where_they_come_from(folder: Path, tmp_path: Path) -> None:
    def digest(description: Description, seed: int) -> str:
        weights = build_network(description, seed=seed).state_dict()
        return save_model(tmp_path / "other", description, weights=weights, schedule=SCHEDULE)

    same = model_digest(folder)
    assert digest(replace(DESCRIPTION, provenance={"data_digest": "e"}), 3) == same
    assert digest(DESCRIPTION, 4) != same
    assert digest(replace(DESCRIPTION, timetables={}), 3) != same


def test_building_a_network_leaves_torchs_generator_alone() -> None:
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    build_network(DESCRIPTION, seed=7)
    assert torch.equal(torch.rand(3), wanted)


def _edit(folder: Path, change: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    path = folder / "model.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def _resave(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the weights and let model.json name their new digest."""
    from pipeline.artefacts.files import file_digest

    tensors = load_tensors(folder / "model.safetensors")
    change(tensors)
    save_tensors(folder / "model.safetensors", tensors)
    digest = file_digest(folder / "model.safetensors")
    _edit(folder, lambda document: document.update(files={"model.safetensors": digest}))


def _flip_a_bit(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no description": (lambda f: (f / "model.json").unlink(), r"model\.json: not found, wanted the folder of a model"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors: No such file"),
    "half a description": (lambda f: (f / "model.json").write_text('{"format": 1,'), r"model\.json: not JSON"),
    "a list": (lambda f: (f / "model.json").write_text("[]"), r"model\.json: wanted a JSON object"),
    "a later format": (lambda f: _edit(f, lambda d: d.update(format=2)), "format 2, this version reads format 1"),
    "one bit": (_flip_a_bit, r"model\.safetensors: SHA-256 is \w+, model\.json wants"),
    "another network": (lambda f: _edit(f, lambda d: d["network"].update(kind="dit")), "network.kind 'dit'"),
    "an unknown key": (lambda f: _edit(f, lambda d: d["network"].update(heads=4)), "heads"),
    "no target": (lambda f: _edit(f, lambda d: d.pop("target")), "target is missing"),
    "an unknown target": (lambda f: _edit(f, lambda d: d.update(target="score")), "target 'score'"),
    "wider": (lambda f: _edit(f, lambda d: d["network"].update(widths=[16])), r"shape \[.*\], wanted \["),
    "another path in files": (
        lambda f: _edit(f, lambda d: d.update(files={"../x": "0"})),
        r"files: should name model\.safetensors",
    ),
    "a weight missing": (
        lambda f: _resave(f, lambda t: t.pop("inward.bias")),  # type: ignore[arg-type,return-value]
        "1 weights are missing, the first is inward.bias",
    ),
    "a weight too many": (
        lambda f: _resave(f, lambda t: t.update(extra=torch.zeros(1))),
        "the first is extra",
    ),
    "NaN": (
        lambda f: _resave(f, lambda t: t["inward.bias"].fill_(float("nan"))),  # type: ignore[arg-type,return-value]
        "inward.bias: holds values that are not finite",
    ),
    "another schedule": (
        lambda f: _resave(f, lambda t: t.update({"schedule.beta": cosine_betas(11)})),
        r"schedule.beta: digest \w+, model.json wants",
    ),
    "no schedule": (
        lambda f: _resave(f, lambda t: t.pop("schedule.beta")),  # type: ignore[arg-type,return-value]
        "schedule.beta is missing",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_does_not_fit_is_refused_with_the_reason(folder: Path, fault: str) -> None:
    spoil, message = FAULTS[fault]
    spoil(folder)
    with pytest.raises(FoundryError, match=message):
        load_model(folder)


def test_truncated_safetensors_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FoundryError, match="not whole safetensors"):
        load_tensors(path)
