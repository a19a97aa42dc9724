import json
from types import SimpleNamespace

import pytest

from pipeline.registry.history import Entry, as_lines, challenger, entries, line_of_champions, record


def history(*events: str) -> list[Entry]:
    """Entries from `event version champion_before`."""
    return [dict(zip(("event", "version", "champion_before"), each.split(), strict=True)) for each in events]


THREE = ("accept 1 none", "accept 2 1", "accept 3 2")


@pytest.mark.parametrize(
    ("events", "champion", "line"),
    [
        ((), "1", "1"),
        (THREE, "3", "1 2 3"),
        ((*THREE, "rollback 2 3"), "2", "1 2"),
        ((*THREE, "rollback 2 3", "rollback 1 2"), "1", "1"),
        ((*THREE, "reject 4 3"), "3", "1 2 3"),
        (("undecided 1 none", "promote 1 none", "undecided 2 1"), "1", "1"),
        ((*THREE, "rollback 2 3", "promote 3 2"), "3", "1 2 3"),
        ((*THREE, "promote 1 3"), "1", "1 2 3 1"),
        ((*THREE, "promote 1 3", "rollback 3 1", "rollback 2 3", "rollback 1 2"), "1", "1"),
        ((*THREE, "rollback 1 3"), "1", "1"),
        (("accept 5 4",), "5", "4 5"),
    ],
    ids=[
        "an alias set by hand",
        "promotions",
        "a rollback goes one back",
        "a second one goes further",
        "a rejection moves nothing",
        "nor does a model that is undecided",
        "a person promotes the version before",
        "a person promotes an old version",
        "rollbacks undo that too, and end at the first champion",
        "a rollback past a deleted version",
        "the champion before is known even if its own decision is not",
    ],
)
def test_the_line_of_champions(events: tuple[str, ...], champion: str, line: str) -> None:
    assert line_of_champions(history(*events), champion) == tuple(line.split())


@pytest.mark.parametrize("champion", ["2", "3"])
def test_of_two_promotions_at_once_either_can_have_come_last_and_both_lead_back_to_the_champion_before(
    champion: str,
) -> None:
    for events in (("accept 2 1", "accept 3 1"), ("accept 3 1", "accept 2 1")):
        assert line_of_champions(history("accept 1 none", *events), champion) == ("1", champion)


def test_two_equal_rollbacks_at_once_count_once() -> None:
    assert line_of_champions(history(*THREE, "rollback 2 3", "rollback 2 3"), "2") == ("1", "2")


def test_rollbacks_of_0_1_which_went_back_and_forth_are_understood() -> None:
    """0.1 exchanged champion and previous, so that its second rollback took back the first."""
    assert line_of_champions(history(*THREE, "rollback 2 3", "rollback 3 2"), "3") == ("1", "2", "3")


def test_the_challenger_is_the_last_version_that_was_not_accepted_until_a_promotion() -> None:
    assert challenger([]) is None
    assert challenger(history("accept 1 none", "reject 2 1", "reject 3 1")) == "3"
    assert challenger(history("accept 1 none", "accept 2 1", "reject 3 2", "rollback 1 2")) == "3"
    assert challenger(history("accept 1 none", "undecided 2 1")) == "2"
    assert challenger(history("accept 1 none", "reject 2 1", "promote 2 1")) is None


def test_records_become_entries_in_the_order_of_their_times_with_those_of_0_1_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GITHUB_ACTOR", "ada")
    first, second = (
        record("accept", champion_before="7", why="a" * 3000),
        record("reject", champion_before="8", why="b"),
    )
    versions = [
        SimpleNamespace(version=9, tags=second | {"model.digest": "d1g3st", "decision": "reject"}),
        SimpleNamespace(version=8, tags=first),
    ]
    old = {"at": "2026-11-24T10:00:00+00:00", "event": "accept", "version": "7", "champion_before": "none"}
    found = entries(versions, {"foundry.ledger": "tiny", "promotion.000001": json.dumps(old)})
    assert found[0] == old
    assert [(entry["version"], entry["event"], entry["champion_before"]) for entry in found[1:]] == [
        ("8", "accept", "7"),
        ("9", "reject", "8"),
    ]
    assert found[1]["by"] == "ada"
    assert found[1]["why"] == "a" * 2000
    assert sorted(found[1]) == ["at", "by", "champion_before", "event", "git.commit", "version", "why"]
    assert [json.loads(line) for line in as_lines(found).splitlines()] == found
