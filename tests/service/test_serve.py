import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from pipeline.errors import FoundryError
from tests.command_line import foundry
from tests.service.server import free_port


def _refusal(*arguments: str, **environment: str) -> str:
    """The error of `foundry serve`, in this process; it serves nothing."""
    with (
        patch.dict(os.environ, environment),
        patch.object(os, "execv", side_effect=AssertionError("it serves")),
        pytest.raises(FoundryError) as caught,
    ):
        foundry("serve", "--port", free_port(), *arguments)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_folder_without_a_model_ends_with_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "serve", "--port", str(free_port()), "--model", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"{tmp_path}/model.json: not found, wanted the folder of a model")
    assert len(done.stderr.splitlines()) == 1


def test_a_changed_model_is_not_served(model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    said = _refusal("--model", str(folder))
    assert re.fullmatch(r".*model\.safetensors: SHA-256 is \w+, model\.json wants \w+", said)


def test_a_home_that_cannot_be_written_is_named_with_what_to_set(model_folder: Path) -> None:
    assert _refusal("--model", str(model_folder), HOME="/proc/nothing", BENTOML_HOME="") == (
        "/proc/nothing/bentoml: cannot be written: No such file or directory; BentoML keeps its files there: "
        "set BENTOML_HOME to a folder that can"
    )


def test_a_port_in_use_is_an_error(model_folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = _refusal("--model", str(model_folder), "--port", str(taken.getsockname()[1]))
    assert re.search(r"Address already in use; `--port \d+` takes another$", said)


def test_without_keys_only_loopback_addresses_are_accepted(model_folder: Path) -> None:
    said = _refusal("--model", str(model_folder), "--host", "0.0.0.0")  # noqa: S104, what is tested
    assert "set FOUNDRY_API_KEYS, or FOUNDRY_ALLOW_ANONYMOUS=1" in said


@pytest.mark.parametrize(
    ("name", "value"),
    [("FOUNDRY_ROWS", "1"), ("FOUNDRY_THREADS", "many"), ("FOUNDRY_MODEL_NAME", "a/b"), ("FOUNDRY_KEY_SHARE", "0")],
)
def test_an_invalid_variable_is_named(model_folder: Path, name: str, value: str) -> None:
    assert re.fullmatch(rf"{name}: .* \(got '{value}'\)", _refusal("--model", str(model_folder), **{name: value}))


def test_a_host_name_is_refused(model_folder: Path) -> None:
    said = _refusal("--model", str(model_folder), "--host", "localhost")
    assert said == "--host: should be an IP address, such as 127.0.0.1 or 0.0.0.0 (got localhost)"
