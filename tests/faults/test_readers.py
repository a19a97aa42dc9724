"""Every file that a stage reads, damaged in every way: the stage names it and begins nothing."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline.errors import FoundryError
from tests.command_line import foundry
from tests.faults import small_project

ROOT = Path(__file__).parents[2]
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
READERS = ("schedule", "features", "train", "evaluate", "register")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _remove(path: Path) -> None:
    path.unlink()


def _make_another(path: Path) -> None:
    path.write_bytes(b"[1, 2]" + bytes(2000))


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut": _cut, "empty": _empty, "gone": _remove, "another": _make_another, "one bit": _flip_a_bit,
}  # fmt: skip
GUARDED = {
    "images-00000.npy", "labels.npy", "model.safetensors", "extractor.safetensors", "reference.safetensors",
    "snapshots.safetensors",
}  # fmt: skip
"""What a digest beside it or in it vouches for, bit by bit."""


FOLDERS = {
    "train": ("images-00000.npy", "labels.npy"),
    "held_out": ("images-00000.npy", "labels.npy"),
    "all_images": ("extractor.json", "extractor.safetensors", "reference.safetensors"),
}
"""Files of the folders that stages read."""


def _files(stage: str) -> list[str]:
    """What the stage reads, by dvc.yaml; folders are named by the files that are in them. There is no ancestor here."""
    if stage == "register":
        evaluation = [f"data/evaluation/{name}" for name in ("metrics.json", "figures.csv")]
        return ["data/model/model.json", "data/model/model.safetensors", *evaluation]
    data = [path for path in DVC[stage]["deps"] if path.startswith("data/") and path != "data/ancestor"]
    names = {path: FOLDERS[path.split("/")[-1]] for path in data if path.split("/")[-1] in FOLDERS}
    return [f"{path}/{name}" if name else path for path in data for name in names.get(path, ("",))]


CASES = [
    pytest.param(stage, file, damage, id=f"{stage}-{file.removeprefix('data/')}-{damage}".replace(" ", "-"))
    for stage in READERS
    for file in _files(stage)
    for damage in DAMAGES
    if damage != "one bit" or Path(file).name in GUARDED
]


@pytest.mark.parametrize(("stage", "file", "damage"), CASES)
def test_a_damaged_file_is_named_before_anything_begins(
    made: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch, stage: str, file: str, damage: str
) -> None:
    shutil.copytree(made / "data", workspace / "data")
    shutil.copyfile(made / "params.yaml", workspace / "params.yaml")
    shutil.rmtree(workspace / "data" / "registration")
    DAMAGES[damage](workspace / file)
    monkeypatch.setenv("NPROC", "1")
    # Nothing may come so far as to log.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(FoundryError) as caught:
        foundry(*small_project.COMMANDS.get(stage, [stage]), *small_project.STAGES[stage])
    said = str(caught.value)
    folder = file if "prepared/" not in file else "/".join(file.split("/")[:2])
    assert folder in said or Path(file).name in said
    assert not (workspace / ".foundry" / "outbox").exists()
    assert not (workspace / "data" / "registration" / "decision.json").exists()
