"""Registrations that are killed, overtaken or not answered."""

import socket
from pathlib import Path

import pytest

from pipeline.artefacts.model import model_digest
from pipeline.register import tune
from pipeline.registry.aliases import ChampionChangedError
from pipeline.registry.gate.promotion import Decision
from pipeline.registry.registry import Registry
from pipeline.registry.versions import COMPLETE_TAG
from pipeline.tracking import store
from tests.stages.registrations import NAME, NOWHERE, decision, registered, versions, write_model


@pytest.mark.usefixtures("tracking_server")
def test_when_the_champion_has_changed_meanwhile_nothing_half_made_stays() -> None:
    registered(seed=1, kid=0.1)
    candidate = tune(write_model(Path("model-2"), 2), Path("evaluation"), Path("candidate"), NOWHERE.params)
    stale = Decision(decision="accept", champion="7", model_digest=candidate.model.digest)
    for name, before in ((NAME, {"champion": "1"}), ("another", {})):
        with pytest.raises(ChampionChangedError, match="decided against champion 7, but now that is"):
            Registry(name).add(candidate, stale, "a card")
        assert Registry(name).aliases.current() == before
    assert list(versions()) == ["1"]
    client = store.connect()
    assert [found.name for found in client.search_registered_models()] == [NAME]
    assert len(client.search_logged_models([store.experiment_id(client)])) == 1
    failed = client.search_runs([store.experiment_id(client)], "attributes.status = 'FAILED'")
    assert [run.info.run_name for run in failed] == ["register another", "register tiny"]


@pytest.mark.usefixtures("tracking_server")
def test_what_a_killed_registration_left_is_taken_away_by_the_next() -> None:
    registered(seed=1, kid=0.1)
    client = store.connect()
    # Killed before it was decided about.
    client.delete_model_version_tag(NAME, "1", COMPLETE_TAG)
    client.delete_registered_model_alias(NAME, "champion")
    registered(seed=1, kid=0.1)
    assert list(versions()) == ["2"]
    assert COMPLETE_TAG in versions()["2"].tags
    assert Registry(NAME).aliases.current() == {"champion": "2"}
    assert len(client.search_logged_models([store.experiment_id(client)])) == 1


@pytest.mark.usefixtures("tracking_server")
def test_a_registration_that_was_killed_after_it_moved_the_champion_is_completed_by_the_next() -> None:
    registered(seed=1, kid=0.1)
    store.connect().delete_model_version_tag(NAME, "1", COMPLETE_TAG)
    assert "this model already" in registered(seed=1, kid=0.1)
    assert list(versions()) == ["1"]
    assert COMPLETE_TAG in versions()["1"].tags
    assert Registry(NAME).aliases.current() == {"champion": "1"}


@pytest.mark.usefixtures("workspace")
def test_a_registry_that_does_not_answer_is_named_and_what_was_made_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(store.StoreError, match=uri) as error:
        registered(seed=1, kid=0.1)
    assert error.value.exit_code == 2
    assert len(str(error.value).splitlines()) == 1
    assert decision()["decision"] == "undecided"
    assert decision()["model_digest"] == model_digest(Path("registration/model"))
