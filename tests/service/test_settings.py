import hashlib

import pytest

from pipeline.errors import FoundryError
from service.settings import Settings, load_settings


def test_every_setting_has_a_description() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_keys_are_stored_as_digests() -> None:
    settings = Settings(api_keys="mouse, two,")
    assert settings.key_digests == tuple(hashlib.sha256(key).digest() for key in (b"mouse", b"two"))
    assert "mouse" not in repr(settings)


def test_one_key_may_use_the_whole_queue_and_several_their_share() -> None:
    assert Settings(api_keys="one").limits.owner_share == 1.0
    assert Settings(api_keys="one,two").limits.owner_share == 0.5


def test_all_invalid_variables_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUNDRY_ROWS", "0")
    monkeypatch.setenv("FOUNDRY_STUCK_SEC", "soon")
    with pytest.raises(FoundryError) as refused:
        load_settings()
    assert [line.split(":")[0] for line in str(refused.value).splitlines()] == ["FOUNDRY_ROWS", "FOUNDRY_STUCK_SEC"]


def test_secrets_are_not_shown_in_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUNDRY_API_KEYS", "hush")
    monkeypatch.setenv("FOUNDRY_ROWS", "0")
    with pytest.raises(FoundryError) as refused:
        load_settings()
    assert "hush" not in str(refused.value)
