import hashlib
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipeline.artefacts.model import model_digest
from pipeline.artefacts.passport import Passport, PassportError
from pipeline.errors import CheckFailedError
from tests.command_line import foundry

IMAGE = np.zeros((8, 8, 1), np.uint8)


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(workspace: Path) -> Path:
    """A repository whose dvc.lock and data/raw.dvc are committed, and the data in the cache."""
    git("init", "--quiet")
    (workspace / "data").mkdir()
    (workspace / "data" / "raw.dvc").write_text("outs:\n- md5: abcdef.dir\n  path: raw\n")
    (workspace / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    git("add", "dvc.lock", "data/raw.dvc")
    git("commit", "--quiet", "--message", "The first model")
    (workspace / ".dvc" / "cache" / "files" / "md5" / "ab" / "cdef.dir").mkdir(parents=True)
    return workspace


@pytest.fixture
def picture(tmp_path: Path, small_model: Path) -> Path:
    return draw(tmp_path / "a picture é.png", model_digest(small_model))


def draw(path: Path, digest: str, key: bytes | None = None) -> Path:
    passport = Passport(
        model_digest=digest,
        seed=5,
        num_steps=20,
        sampler="ddim",
        eta=0.5,
        class_label=1,
        guidance_scale=2.0,
        determinism="exact",
        repro_id="cafe",
    )
    path.write_bytes(passport.png(IMAGE, key))
    return path


def told(picture: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What the command says, by the name in front of it."""
    capsys.readouterr()
    foundry("model", "trace", picture)
    return {line[:12].strip(): line[12:] for line in capsys.readouterr().out.splitlines()}


@pytest.mark.usefixtures("repository", "champion")
def test_a_picture_is_traced_to_model_run_commit_lock_and_data(
    picture: Path, small_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = told(picture, capsys)
    commit, digest = git("rev-parse", "HEAD"), model_digest(small_model)
    assert lines["drawn"] == "seed 5, class 1, 20 steps of ddim, eta 0.5, guidance 2"
    assert lines["bits"] == "exact, repro_id cafe"
    assert lines["model"] == digest
    assert lines["registered"] == "small version 1 (champion)"
    assert lines["decision"] == "accept"
    assert lines["promoted"].startswith("kid_is_known: found ")
    assert lines["trained by"].startswith("run ")
    assert lines["git"].startswith(f"{commit}: ")
    assert lines["git"].endswith(" The first model")
    lock = hashlib.md5(Path("dvc.lock").read_bytes(), usedforsecurity=False).hexdigest()
    assert lines["dvc.lock"] == f"{lock}: committed in {commit}"
    assert lines["data/raw"] == "abcdef.dir: in the cache here"
    assert lines["prepared"] == "da" * 32


@pytest.mark.usefixtures("repository", "champion")
def test_changes_after_the_training_are_told_apart(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = git("rev-parse", "HEAD")
    Path("dvc.lock").write_text("schema: '2.0'\nstages: {new: {}}\n")
    git("commit", "--quiet", "--all", "--message", "Another model")
    Path(".dvc/cache/files/md5/ab/cdef.dir").rmdir()
    lines = told(picture, capsys)
    assert lines["git"].startswith(trained)
    assert lines["dvc.lock"].endswith(f"committed in {trained}")
    assert lines["data/raw"] == "abcdef.dir: not in the cache here; `dvc pull` gets it from the remote"


@pytest.mark.usefixtures("champion")
def test_outside_of_git_and_dvc_what_is_not_known_is_said_to_be_so(
    picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = told(picture, capsys)
    assert lines["registered"] == "small version 1 (champion)"
    assert lines["git"] == lines["dvc.lock"] == lines["data/raw"] == "not known"


@pytest.mark.usefixtures("champion")
def test_a_model_that_is_not_registered_is_said_to_be_so_after_the_passport(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CheckFailedError, match=f"no registered model has the digest {'0' * 64}"):
        told(draw(tmp_path / "other.png", "0" * 64), capsys)
    assert "seed 5" in capsys.readouterr().out


@pytest.mark.usefixtures("champion")
def test_with_a_key_only_a_signed_picture_is_traced(
    picture: Path,
    small_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    signed = draw(tmp_path / "signed.png", model_digest(small_model), b"secret")
    assert told(signed, capsys)["passport"] == "not checked: FOUNDRY_PASSPORT_KEY is not set"
    monkeypatch.setenv("FOUNDRY_PASSPORT_KEY", "secret")
    assert told(signed, capsys)["passport"] == "its signature is valid"
    with pytest.raises(PassportError, match=r"a picture é\.png: the passport is not signed"):
        told(picture, capsys)
