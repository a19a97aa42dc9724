import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.commands.history import line
from pipeline.commands.rollback import rollback
from pipeline.errors import FoundryError
from pipeline.provenance.process import ProcessId
from pipeline.registry import lock
from pipeline.registry.aliases import MOVING_TAG, Aliases, ChampionChangedError, Decision
from pipeline.registry.history import FILE, LEDGER_TAG, as_lines
from pipeline.registry.lock import claimed, is_abandoned, marks
from pipeline.registry.registry import Registry
from pipeline.tracking import store

NAME = "tiny"


@pytest.fixture
def client(tracking_store: Path) -> Any:
    """A store where `tiny` has four versions of nothing."""
    assert tracking_store.exists()
    client = store.connect()
    client.create_registered_model(NAME)
    for _ in range(4):
        client.create_model_version(NAME, "file:///nowhere")
    return client


@pytest.fixture
def succession(client: Any) -> Aliases:
    return Aliases(client, store.experiment_id(client), NAME)


def accept(succession: Aliases, version: str, against: str | None, why: str = "better") -> None:
    succession.decide(version, Decision(accepted=True, against=against, why=why))
    succession.complete()


def tags(client: Any, version: str) -> dict[str, str]:
    return dict(client.get_model_version(NAME, version).tags)


def test_a_succession_is_told_by_aliases_tags_and_the_ledger(client: Any, succession: Aliases) -> None:
    accept(succession, "1", None)
    accept(succession, "2", "1", why="KID is lower")
    succession.decide("3", Decision(accepted=False, against="2", why="slower"))
    succession.complete()
    assert succession.aliases() == {"champion": "2", "previous": "1", "challenger": "3"}
    assert {key: tags(client, "2")[f"promoted_{key}"] for key in ("from", "why")} == {
        "from": "1",
        "why": "KID is lower",
    }
    assert {"promoted_by", "promoted_at", "registered_at"} <= tags(client, "2").keys()
    assert tags(client, "3").keys() == {"registered_at"}
    told = [(entry["event"], entry["version"], entry["champion_before"]) for entry in succession.history()]
    assert told == [("accept", "1", "none"), ("accept", "2", "1"), ("reject", "3", "2")]
    assert "slower" in line(succession.history()[-1])


def test_the_ledger_is_a_file_in_the_artefact_store(client: Any, succession: Aliases) -> None:
    accept(succession, "1", None)
    accept(succession, "2", "1")
    (run,) = client.search_runs([store.experiment_id(client)], f"tags.`{LEDGER_TAG}` = '{NAME}'")
    text = Path(client.download_artifacts(run.info.run_id, FILE)).read_text()
    assert text == as_lines(succession.history())
    assert [json.loads(each)["version"] for each in text.splitlines()] == ["1", "2"]


def test_a_rollback_takes_one_call_and_two_are_none(client: Any, succession: Aliases) -> None:
    accept(succession, "1", None)
    accept(succession, "2", "1")
    assert rollback(NAME, "pictures of version 2 are grey") == (
        "tiny version 1 is champion again; version 2 is previous: pictures of version 2 are grey"
    )
    assert succession.aliases() == {"champion": "1", "previous": "2"}
    assert tags(client, "2")["rolled_back_why"] == "pictures of version 2 are grey"
    assert tags(client, "1")["promoted_from"] == "2"
    assert succession.history()[-1]["event"] == "rollback"
    rollback(NAME, "no, they are fine")
    assert succession.aliases() == {"champion": "2", "previous": "1"}


def test_without_a_previous_champion_there_is_no_rollback(succession: Aliases) -> None:
    with pytest.raises(FoundryError, match="no previous champion"):
        rollback(NAME, "why not")
    accept(succession, "1", None)
    with pytest.raises(FoundryError, match="no previous champion to go back to .*'champion': '1'"):
        rollback(NAME, "why not")
    assert [entry["event"] for entry in succession.history()] == ["accept"]


@pytest.mark.parametrize("words", [[], ["--reason", " "]])
def test_a_rollback_wants_a_reason(words: list[str], root: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "model", "rollback", *words]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--reason" in done.stderr


def test_a_decision_against_another_champion_changes_nothing(succession: Aliases) -> None:
    accept(succession, "1", None)
    for against in (None, "2"):
        with pytest.raises(ChampionChangedError, match="now that is 1"):
            succession.decide("3", Decision(accepted=True, against=against, why="better"))
    assert succession.aliases() == {"champion": "1"}
    assert len(succession.history()) == 1


class Brittle:
    """A client that fails for good at the n-th call that changes something: a store that goes away."""

    def __init__(self, client: Any, fails_at: int, *, killed: bool) -> None:
        self._client, self._left, self._killed = client, fails_at, killed

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)
        if not name.startswith(("set_", "delete_", "create_", "log_")):
            return call

        def changing(*arguments: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left == 0 or (self._killed and self._left < 0):
                raise ConnectionError("gone")
            return call(*arguments, **options)

        return changing


@pytest.mark.parametrize("killed", [False, True], ids=["one call fails", "all calls fail from then on"])
@pytest.mark.parametrize("fails_at", range(1, 9))
def test_whatever_call_fails_the_aliases_move_together_or_not_at_all(
    client: Any,
    succession: Aliases,
    fails_at: int,
    killed: bool,  # noqa: FBT001
) -> None:
    accept(succession, "1", None)
    accept(succession, "2", "1")
    old, new = {"champion": "2", "previous": "1"}, {"champion": "3", "previous": "2"}
    brittle = Aliases(Brittle(client, fails_at, killed=killed), store.experiment_id(client), NAME)
    with contextlib.suppress(ConnectionError):
        brittle.decide("3", Decision(accepted=True, against="2", why="better"))
    # Whoever comes next finds everything or nothing.
    succession.complete()
    assert MOVING_TAG not in client.get_registered_model(NAME).tags
    moved = succession.history()[-1]["version"] == "3"
    assert succession.aliases() == (new if moved else old)
    assert ("promoted_at" in tags(client, "3")) == moved
    accept(succession, "4", "3" if moved else "2")
    assert succession.aliases()["champion"] == "4"


def test_enough_calls_were_tried_for_both_outcomes(client: Any, succession: Aliases) -> None:
    accept(succession, "1", None)
    accept(succession, "2", "1")
    outcomes = set()
    for fails_at in (2, 50):
        brittle = Aliases(Brittle(client, fails_at, killed=True), store.experiment_id(client), NAME)
        try:
            brittle.decide("3", Decision(accepted=True, against="2", why="better"))
        except ConnectionError:
            outcomes.add("failed")
        else:
            outcomes.add("moved")
        succession.complete()
    assert outcomes == {"failed", "moved"}


PROMOTES = """
import sys, time
from pathlib import Path
from pipeline.tracking import store
from pipeline.registry.aliases import ChampionChangedError, Decision, Aliases
client = store.connect()
succession = Aliases(client, store.experiment_id(client), "tiny")
Path(sys.argv[1] + ".ready").touch()
while not Path("go").exists():
    time.sleep(0.01)
try:
    succession.decide(sys.argv[1], Decision(accepted=True, against="1", why="better than version 1"))
    succession.complete()
    print("promoted")
except ChampionChangedError:
    print("too late")
"""


def test_of_two_processes_at_once_one_promotes(client: Any, succession: Aliases, root: Path) -> None:
    accept(succession, "1", None)
    environment = {**os.environ, "PYTHONPATH": str(root), "MLFLOW_TRACKING_URI": store.tracking_uri()}
    processes = [
        subprocess.Popen([sys.executable, "-c", PROMOTES, version], env=environment, stdout=subprocess.PIPE, text=True)
        for version in ("2", "3")
    ]
    while not (Path("2.ready").exists() and Path("3.ready").exists()):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    Path("go").touch()
    said = [process.communicate()[0].strip() for process in processes]
    assert sorted(said) == ["promoted", "too late"]
    winner = ("2", "3")[said.index("promoted")]
    assert succession.aliases() == {"champion": winner, "previous": "1"}
    assert [entry["version"] for entry in succession.history()] == ["1", winner]
    assert [found.name for found in client.search_registered_models()] == [NAME], "the claim is gone"


def test_a_claim_that_is_held_makes_others_wait_and_then_names_its_holder(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE_SEC", 0.3)
    client.create_registered_model(
        f"{NAME}.claim", tags={"foundry.process": "7@1.00", "foundry.worktree": "another machine:/work"}
    )
    with (
        pytest.raises(FoundryError, match=r"tiny\.claim: held .* 7@1\.00 in another machine:/work"),
        claimed(client, NAME),
    ):
        pytest.fail("claimed")


@pytest.mark.parametrize("why", ["its process has died", "it is old"])
def test_a_forgotten_claim_is_taken_over(why: str, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = marks()
    if why == "it is old":
        mine["foundry.worktree"] = "another machine:/work"
        monkeypatch.setattr(lock, "STALE_SEC", 0.0)
    client.create_registered_model(f"{NAME}.claim", tags={**mine, "foundry.process": "999999@1.00"})
    with claimed(client, NAME):
        assert client.get_registered_model(f"{NAME}.claim").tags["foundry.process"] == marks()["foundry.process"]
    assert [found.name for found in client.search_registered_models()] == [NAME]


def test_only_a_process_of_this_machine_can_be_known_to_be_gone() -> None:
    gone = {**marks(), "foundry.process": "999999@1.00"}
    assert is_abandoned(gone)
    assert is_abandoned(marks()), "this process is at something else"
    assert not is_abandoned({**marks(), "foundry.process": str(ProcessId.of(psutil.Process(1)))})
    assert not is_abandoned({**gone, "foundry.worktree": "another machine:/work"})
    assert not is_abandoned({})


def test_the_registry_knows_its_succession(succession: Aliases) -> None:
    accept(succession, "1", None)
    assert Registry(NAME).aliases() == {"champion": "1"}
