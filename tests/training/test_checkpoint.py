import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.errors import FoundryError
from pipeline.training.checkpoint import NUM_FINISHED, NUM_STOPPED, Checkpoint, exclusive, finish, latest, save


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
from pipeline.training.checkpoint import exclusive
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


def test_what_a_killed_process_was_writing_is_gone_when_the_next_begins(tmp_path: Path) -> None:
    store = tmp_path / "store"
    (store / "grids").mkdir(parents=True)
    whole = save(store, _checkpoint(64))
    for name in ("new.safetensors", ".new.safetensors.1.tmp", "grids/.000000064.png.1.tmp"):
        (store / name).write_bytes(b"half")
    with exclusive(store):
        assert sorted(path.name for path in store.rglob("*")) == sorted([whole.name, "grids", "lock"])


def _stopped(home: Path, number: int, *, finished: bool) -> Path:
    """A training that began at minute `number` and was stopped, or went to its end."""
    store = home / f"{number:03}"
    with exclusive(store):
        save(store, _checkpoint(64))
        save(store, _checkpoint(128))
        os.utime(store / "lock", (60 * number, 60 * number))
        if finished:
            finish(store)
    return store


def _trainings(home: Path) -> list[str]:
    return sorted(store.name for store in home.iterdir() if list(store.glob("*.safetensors")))


def test_a_finished_training_keeps_one_checkpoint_and_a_stopped_one_both(tmp_path: Path) -> None:
    stopped, finished = _stopped(tmp_path, 1, finished=False), _stopped(tmp_path, 2, finished=True)
    assert len(list(stopped.glob("*.safetensors"))) == 2
    assert latest(finished)[0] is not None
    assert len(list(finished.glob("*.safetensors"))) == 1


def test_the_last_trainings_stay_and_older_ones_are_forgotten_when_one_ends(tmp_path: Path) -> None:
    for number in range(NUM_STOPPED + 2):
        _stopped(tmp_path, number, finished=False)
    for number in range(100, 100 + NUM_FINISHED + 1):
        _stopped(tmp_path, number, finished=True)
    stopped = [f"{number:03}" for number in range(2, NUM_STOPPED + 2)]
    assert _trainings(tmp_path) == [*stopped, *(str(101 + number) for number in range(NUM_FINISHED))]


def test_a_training_under_way_is_never_forgotten(tmp_path: Path) -> None:
    living = _stopped(tmp_path, 0, finished=False)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(living)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        os.utime(living / "lock", (0, 0))
        for number in range(1, NUM_STOPPED + 1):
            _stopped(tmp_path, number, finished=False)
        _stopped(tmp_path, 99, finished=True)
        assert latest(living)[0] is not None
        other.communicate("end\n")


def test_a_finished_training_that_begins_again_is_no_longer_finished(tmp_path: Path) -> None:
    store = _stopped(tmp_path, 1, finished=True)
    with exclusive(store):
        assert not (store / "finished").exists()
