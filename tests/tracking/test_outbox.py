import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.artefacts.files import UnwritableError
from pipeline.tracking.outbox import Outbox, ownerless


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


def steps(outbox: Outbox) -> list[int]:
    return [entry.content["step"] for entry in outbox.waiting()]


def leave(outbox: Outbox) -> Path:
    """Close an outbox, as the end of its process does."""
    outbox.close()
    return outbox.folder


def test_entries_wait_in_their_order(home: Path) -> None:
    outbox = Outbox.create(home)
    for step in range(5):
        outbox.append("metrics", "run", step=step)
    assert steps(outbox) == [0, 1, 2, 3, 4]
    assert {(entry.kind, entry.run) for entry in outbox.waiting()} == {("metrics", "run")}


def test_shipped_entries_do_not_wait(home: Path) -> None:
    outbox = Outbox.create(home)
    for step in range(5):
        outbox.append("metrics", "run", step=step)
    outbox.mark_shipped(outbox.waiting()[2].end)
    assert steps(outbox) == [3, 4]


def test_more_entries_than_one_read_returns_all_arrive(home: Path) -> None:
    outbox = Outbox.create(home)
    for step in range(2500):
        outbox.append("metrics", "run", step=step)
    seen = []
    while entries := outbox.waiting():
        seen += [entry.content["step"] for entry in entries]
        outbox.mark_shipped(entries[-1].end)
    assert seen == list(range(2500))


def test_a_kept_file_is_a_copy(home: Path, tmp_path: Path) -> None:
    outbox = Outbox.create(home)
    (tmp_path / "grid.png").write_bytes(b"first")
    name = outbox.keep(tmp_path / "grid.png")
    (tmp_path / "grid.png").write_bytes(b"second")
    again = outbox.keep(tmp_path / "grid.png")
    assert outbox.kept(name).read_bytes() == b"first"
    assert outbox.kept(again).read_bytes() == b"second"
    assert outbox.kept(name).name == "grid.png"


def test_an_outbox_in_use_is_not_ownerless(home: Path) -> None:
    outbox = Outbox.create(home)
    outbox.append("metrics", "run", step=0)
    assert list(ownerless(home)) == []
    leave(outbox)
    assert [steps(other) for other in ownerless(home)] == [[0]]


def test_outboxes_come_oldest_first(home: Path) -> None:
    boxes = [Outbox.create(home) for _ in range(3)]
    for step, outbox in enumerate(boxes):
        outbox.append("metrics", "run", step=step)
    for outbox in reversed(boxes):
        leave(outbox)
    assert [steps(other) for other in ownerless(home)] == [[0], [1], [2]]


def test_a_killed_process_leaves_its_entries_and_its_unfinished_runs(home: Path, root: Path) -> None:
    code = f"""
from pathlib import Path
from pipeline.tracking.outbox import Outbox
outbox = Outbox.create(Path({str(home)!r}))
outbox.append("run", "parent")
outbox.append("run", "child")
outbox.append("end", "parent")
print("ready", flush=True)
input()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert list(ownerless(home)) == []
        process.send_signal(signal.SIGKILL)
    (outbox,) = ownerless(home)
    assert [entry.kind for entry in outbox.waiting()] == ["run", "run", "end"]
    assert outbox.unfinished_runs() == ["child"]


def test_half_a_line_is_cut_off_before_more_is_written(home: Path) -> None:
    outbox = Outbox.create(home)
    outbox.append("metrics", "run", step=0)
    folder = leave(outbox)
    with (folder / "entries.jsonl").open("a") as file:
        file.write('{"kind": "metrics", "ru')
    (adopted,) = ownerless(home)
    adopted.append("metrics", "run", step=1)
    assert steps(adopted) == [0, 1]


def test_an_outbox_is_removed_when_the_server_has_everything(home: Path) -> None:
    outbox = Outbox.create(home)
    outbox.append("metrics", "run", step=0)
    outbox.mark_shipped(outbox.waiting()[-1].end)
    leave(outbox)
    assert list(home.iterdir()) == []


def test_a_refused_entry_is_moved_aside_with_the_reason(home: Path) -> None:
    outbox = Outbox.create(home)
    outbox.append("metrics", "run", step=0)
    (entry,) = outbox.waiting()
    outbox.set_aside(entry, "bad name")
    outbox.mark_shipped(entry.end)
    outbox.close()
    assert list(home.iterdir()) == []
    (refused,) = home.with_name("refused").glob("*/refused.jsonl")
    assert json.loads(refused.read_text()) == {"reason": "bad name", "kind": "metrics", "run": "run", "step": 0}


def test_a_place_that_cannot_be_written_is_named(home: Path) -> None:
    home.write_text("a file")
    with pytest.raises(UnwritableError, match=rf"{home}: cannot be written: Not a directory"):
        Outbox.create(home)


def test_a_disk_that_is_full_is_named_and_no_entry_is_torn(home: Path, root: Path) -> None:
    # The limit on file sizes acts as the size of the disk: the kernel writes up to it and no further.
    code = f"""
import resource
from pathlib import Path
from pipeline.artefacts.files import UnwritableError
from pipeline.tracking.outbox import Outbox
outbox = Outbox.create(Path({str(home)!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    for step in range(10):
        outbox.append("metrics", "run", step=step)
except UnwritableError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True)
    assert str(home) in done.stdout
    (outbox,) = ownerless(home)
    assert (outbox.folder / "entries.jsonl").read_bytes().endswith(b"}\n")
    assert steps(outbox) == [0, 1]
