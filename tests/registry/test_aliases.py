import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.commands.model.champion import line, promote, rollback
from pipeline.errors import FoundryError
from pipeline.provenance.process import ProcessId
from pipeline.registry.aliases import LEDGER_TAG, Aliases, ChampionChangedError
from pipeline.registry.registry import Registry, is_abandoned, process_tags
from pipeline.tracking import store
from tests.processes import start

NAME = "tiny"


@pytest.fixture
def client(tracking_server: Path) -> Any:
    """A server on which `tiny` has four versions without a model."""
    assert tracking_server.exists()
    client = store.connect()
    client.create_registered_model(NAME)
    for _ in range(4):
        client.create_model_version(NAME, "s3://nowhere/model")
    return client


@pytest.fixture
def aliases(client: Any) -> Aliases:
    return Aliases(client, store.experiment_id(client), NAME)


def mlflow_aliases(client: Any) -> dict[str, str]:
    return {alias: str(version) for alias, version in client.get_registered_model(NAME).aliases.items()}


def events() -> list[tuple[str, str, str]]:
    return [(entry["event"], entry["version"], entry["champion_before"]) for entry in Registry(NAME).aliases.history()]


def test_a_promotion_is_recorded_and_shown_as_aliases_for_people(client: Any, aliases: Aliases) -> None:
    assert promote(NAME, "1", "to begin with") == "tiny version 1 is champion, the first: to begin with"
    assert promote(NAME, "2", "nicer") == "tiny version 2 is champion, in place of version 1: nicer"
    assert aliases.champion() == "2"
    assert aliases.current() == mlflow_aliases(client) == {"champion": "2", "previous": "1"}
    assert events() == [("promote", "1", "none"), ("promote", "2", "1")]
    assert "nicer" in line(aliases.history()[-1])


def test_a_promotion_of_the_champion_or_of_no_version_is_refused_and_not_recorded(aliases: Aliases) -> None:
    promote(NAME, "1", "to begin with")
    with pytest.raises(FoundryError, match="version 1 is the champion already"):
        promote(NAME, "1", "again")
    with pytest.raises(store.StoreError, match="version=9.* `foundry model history` shows what is registered"):
        promote(NAME, "9", "none")
    assert aliases.champion() == "1"
    assert len(events()) == 1


def test_a_rollback_goes_one_champion_back_and_the_next_one_further(client: Any, aliases: Aliases) -> None:
    for version in "123":
        promote(NAME, version, "newer")
    assert rollback(NAME, "version 3 is grey") == (
        "tiny version 2 is champion again in place of version 3: version 3 is grey "
        "(another rollback goes further back, to version 1)"
    )
    assert aliases.current() == mlflow_aliases(client) == {"champion": "2", "previous": "1"}
    assert rollback(NAME, "so is version 2").endswith("so is version 2 (no earlier champion is left)")
    assert mlflow_aliases(client) == {"champion": "1"}
    with pytest.raises(FoundryError, match="no earlier champion to go back to .*version 1.*foundry model promote"):
        rollback(NAME, "one more")
    assert events()[3:] == [("rollback", "2", "3"), ("rollback", "1", "2")]


def test_a_rollback_passes_over_a_version_that_was_deleted(client: Any, aliases: Aliases) -> None:
    for version in "12":
        promote(NAME, version, "newer")
    promote(NAME, "1", "the first was better")
    promote(NAME, "3", "newer")
    client.delete_model_version(NAME, "2")
    rollback(NAME, "grey")
    assert aliases.current() == {"champion": "1"}


def test_without_a_champion_there_is_no_rollback(aliases: Aliases) -> None:
    with pytest.raises(FoundryError, match="no earlier champion"):
        rollback(NAME, "why not")
    assert aliases.current() == {}


@pytest.mark.parametrize("words", [[], ["--reason", " "]])
@pytest.mark.parametrize("command", [["rollback"], ["promote", "1"]])
def test_a_person_has_to_give_a_reason(command: list[str], words: list[str], root: Path) -> None:
    words = [sys.executable, "-m", "pipeline", "model", *command, *words]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--reason" in done.stderr


def test_a_decision_against_another_champion_changes_nothing(aliases: Aliases) -> None:
    promote(NAME, "1", "to begin with")
    for before in (None, "2"):
        for event in ("accept", "reject", "undecided"):
            with pytest.raises(ChampionChangedError, match="now that is 1"):
                aliases.record(event, "3", before, "too late")
    assert aliases.current() == {"champion": "1"}
    assert events() == [("promote", "1", "none")]


def test_a_model_that_the_gate_cannot_judge_is_challenger_until_a_person_promotes_it(
    client: Any, aliases: Aliases
) -> None:
    aliases.record("undecided", "1", None, "no better than the baseline")
    assert aliases.current() == mlflow_aliases(client) == {"challenger": "1"}
    promote(NAME, "1", "good enough to begin with")
    assert aliases.current() == mlflow_aliases(client) == {"champion": "1"}
    aliases.record("undecided", "2", "1", "too few images")
    assert aliases.current() == mlflow_aliases(client) == {"champion": "1", "challenger": "2"}
    assert events() == [("undecided", "1", "none"), ("promote", "1", "none"), ("undecided", "2", "1")]


def test_aliases_changed_by_hand_in_mlflow_mislead_nobody(client: Any, aliases: Aliases) -> None:
    for version in "12":
        promote(NAME, version, "newer")
    client.set_registered_model_alias(NAME, "previous", "4")
    client.set_registered_model_alias(NAME, "challenger", "4")
    assert aliases.current() == {"champion": "2", "previous": "1"}
    rollback(NAME, "grey")
    assert mlflow_aliases(client) == {"champion": "1"}


def test_the_history_of_0_1_is_read_and_continued(client: Any, aliases: Aliases) -> None:
    """0.1 wrote each decision into a tag of a run, and the three aliases."""
    run = client.create_run(store.experiment_id(client), tags={LEDGER_TAG: NAME}, run_name="promotions")
    for number, (event, version, before) in enumerate([("accept", "1", "none"), ("accept", "2", "1")], 1):
        entry = {"at": f"2026-11-24T10:00:0{number}+00:00", "by": "ada", "champion_before": before, "event": event}
        entry |= {"git.commit": "cafe", "version": version, "why": "better"}
        client.set_tag(run.info.run_id, f"promotion.{number:06}", json.dumps(entry, sort_keys=True))
    client.set_registered_model_alias(NAME, "champion", "2")
    client.set_registered_model_alias(NAME, "previous", "1")
    assert aliases.current() == {"champion": "2", "previous": "1"}
    rollback(NAME, "grey")
    assert events() == [("accept", "1", "none"), ("accept", "2", "1"), ("rollback", "1", "2")]


class Unreliable:
    """A client that fails at a call: before it takes effect, or after, as if only the answer were lost."""

    def __init__(self, client: Any, call: str, *, takes_effect: bool) -> None:
        self._client, self._call, self._takes_effect = client, call, takes_effect

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)
        if name != self._call:
            return call

        def fail(*arguments: Any, **options: Any) -> None:
            if self._takes_effect:
                call(*arguments, **options)
            raise ConnectionError("gone")

        return fail


@pytest.mark.parametrize(
    ("call", "takes_effect", "moved"),
    [
        ("set_model_version_tag", False, False),
        ("set_registered_model_alias", False, False),
        ("set_registered_model_alias", True, True),
        ("delete_registered_model_alias", False, True),
    ],
)
def test_whichever_call_fails_champion_and_history_agree(
    client: Any,
    aliases: Aliases,
    call: str,
    takes_effect: bool,  # noqa: FBT001
    moved: bool,  # noqa: FBT001
) -> None:
    promote(NAME, "1", "to begin with")
    unreliable = Aliases(Unreliable(client, call, takes_effect=takes_effect), store.experiment_id(client), NAME)
    with pytest.raises(ConnectionError):
        unreliable.promote("2", "nicer")
    assert aliases.champion() == ("2" if moved else "1")
    assert len(events()) == (2 if moved else 1)


WAIT = """
def wait():
    Path(sys.argv[1] + ".ready").touch()
    while not Path("go").exists():
        time.sleep(0.01)
"""
PROMOTE = f"""
import sys, time
from pathlib import Path
from pipeline.tracking import store
from pipeline.registry.aliases import ChampionChangedError, Aliases
{WAIT}
class LateClient:
    "Waits before it moves the champion: after the last check."
    def __init__(self, client):
        self.client = client
    def __getattr__(self, name):
        if name == "set_registered_model_alias" and sys.argv[2] == "after the check":
            wait()
        return getattr(self.client, name)
client = store.connect()
aliases = Aliases(LateClient(client), store.experiment_id(client), "tiny")
if sys.argv[2] == "before the check":
    wait()
try:
    aliases.record("accept", sys.argv[1], "1", "better than version 1")
    print("promoted")
except ChampionChangedError:
    print("too late")
"""


def run_two(code: str, root: Path, *words: str) -> list[str]:
    """Run the code for versions 2 and 3 in a process each, which go on together when both are ready; their output."""
    environment = {**os.environ, "PYTHONPATH": str(root), "MLFLOW_TRACKING_URI": store.tracking_uri()}
    processes = [
        start([sys.executable, "-c", code, version, *words], env=environment, stdout=subprocess.PIPE)
        for version in ("2", "3")
    ]
    while not (Path("2.ready").exists() and Path("3.ready").exists()):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    Path("go").touch()
    return [process.communicate()[0].strip() for process in processes]


@pytest.mark.parametrize("when", ["before the check", "after the check"])
def test_of_two_promotions_at_once_none_is_lost_and_the_last_is_champion(
    when: str, client: Any, aliases: Aliases, root: Path
) -> None:
    promote(NAME, "1", "to begin with")
    outcomes = run_two(PROMOTE, root, when)
    promoted = [version for version, outcome in zip("23", outcomes, strict=True) if outcome == "promoted"]
    # Both have passed the check, or one of them has found the other's champion.
    assert len(promoted) == 2 if when == "after the check" else len(promoted) >= 1
    assert set(outcomes) <= {"promoted", "too late"}
    assert aliases.champion() in promoted
    assert sorted(events()[1:]) == [("accept", version, "1") for version in promoted]
    rollback(NAME, "neither")
    assert aliases.current() == mlflow_aliases(client) == {"champion": "1"}


RECORD = f"""
import sys, time
from pathlib import Path
from pipeline.registry import history
from pipeline.tracking import store
{WAIT}
client = store.connect()
wait()
for number in range(20):
    for key, value in history.record("reject", champion_before="1", why=str(number)).items():
        client.set_model_version_tag("tiny", "4", key, value)
"""


def test_two_processes_that_record_at_once_lose_no_decision(aliases: Aliases, root: Path) -> None:
    run_two(RECORD, root)
    assert sorted(int(entry["why"]) for entry in aliases.history()) == sorted([*range(20), *range(20)])


def test_only_a_process_of_this_machine_can_be_known_to_have_ended() -> None:
    ended = {**process_tags(), "foundry.process": "999999@1.00"}
    assert is_abandoned(ended)
    assert is_abandoned(process_tags()), "this process has begun something else"
    assert not is_abandoned({**process_tags(), "foundry.process": str(ProcessId.of(psutil.Process(1)))})
    assert not is_abandoned({**ended, "foundry.worktree": "another machine:/work"})
    assert not is_abandoned({})
