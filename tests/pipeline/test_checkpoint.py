import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.checkpoint import Checkpoint, exclusive, latest, save
from pipeline.diffusion.errors import FoundryError


def _checkpoint(num_images: int) -> Checkpoint:
    return Checkpoint(num_images, {"w": torch.full((4,), float(num_images))}, {"rows": [[1, 0.1]], "run_id": None})


def test_a_checkpoint_comes_back_whole(tmp_path: Path) -> None:
    save(tmp_path, _checkpoint(640))
    found, damaged = latest(tmp_path)
    assert found is not None
    assert (found.num_images, found.notes, damaged) == (640, {"rows": [[1, 0.1]], "run_id": None}, [])
    assert torch.equal(found.tensors["w"], torch.full((4,), 640.0))


def test_an_empty_store_has_none(tmp_path: Path) -> None:
    assert latest(tmp_path) == (None, [])


def test_only_the_last_two_are_kept(tmp_path: Path) -> None:
    for num_images in (64, 128, 192, 1_000_000):
        save(tmp_path, _checkpoint(num_images))
    assert [int(path.name.split("-")[0]) for path in sorted(tmp_path.glob("*.safetensors"))] == [192, 1_000_000]


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path: Path, damage: str) -> None:
    save(tmp_path, _checkpoint(64))
    newest = save(tmp_path, _checkpoint(128))
    content = newest.read_bytes()
    changed = {"truncated": content[:-3], "one bit": content[:-1] + bytes([content[-1] ^ 1]), "empty": b""}[damage]
    newest.write_bytes(changed)
    found, damaged = latest(tmp_path)
    assert found is not None
    assert found.num_images == 64
    assert len(damaged) == 1
    assert newest.name in damaged[0]


def test_a_half_written_checkpoint_is_not_seen(tmp_path: Path) -> None:
    save(tmp_path, _checkpoint(64))
    (tmp_path / "new.safetensors").write_bytes(b"half")
    (tmp_path / ".new.safetensors.1.tmp").write_bytes(b"half")
    found, damaged = latest(tmp_path)
    assert found is not None
    assert (found.num_images, damaged) == (64, [])


HOLDER = """
import sys
from pathlib import Path
from pipeline.checkpoint import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_second_training_of_the_same_state_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(FoundryError, match=f"running already \\(process {other.pid}\\)"), exclusive(tmp_path):
            pass
        other.communicate("end\n")
    with exclusive(tmp_path):
        pass
