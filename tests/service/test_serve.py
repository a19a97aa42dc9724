import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service.server import free_port


def _serve(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "serve", "--port", str(free_port()), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_a_folder_without_a_model_ends_with_one_line(tmp_path: Path) -> None:
    done = _serve("--model", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith(f"{tmp_path}/model.json: not found, wanted the folder of a model")


def test_a_changed_model_is_not_served(model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    done = _serve("--model", str(folder))
    assert done.returncode == 2
    assert re.fullmatch(r".*model\.safetensors: SHA-256 is \w+, model\.json wants \w+\n", done.stderr)


def test_a_home_that_cannot_be_written_is_named_with_what_to_set(model_folder: Path) -> None:
    done = _serve("--model", str(model_folder), HOME="/proc/nothing", BENTOML_HOME="")
    assert done.returncode == 2
    assert done.stderr == (
        "/proc/nothing/bentoml: cannot be written: No such file or directory; BentoML keeps its files there: "
        "set BENTOML_HOME to a folder that can\n"
    )


def test_a_port_in_use_is_an_error(model_folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = _serve("--model", str(model_folder), "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert re.search(r"Address already in use; `--port \d+` takes another\n$", done.stderr)


def test_without_keys_only_loopback_addresses_are_accepted(model_folder: Path) -> None:
    done = _serve("--model", str(model_folder), "--host", "0.0.0.0")  # noqa: S104, what is tested
    assert done.returncode == 2
    assert "set FOUNDRY_API_KEYS, or FOUNDRY_ALLOW_ANONYMOUS=1" in done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [("FOUNDRY_ROWS", "1"), ("FOUNDRY_THREADS", "many"), ("FOUNDRY_MODEL_NAME", "a/b"), ("FOUNDRY_KEY_SHARE", "0")],
)
def test_an_invalid_variable_is_named(model_folder: Path, name: str, value: str) -> None:
    done = _serve("--model", str(model_folder), **{name: value})
    assert done.returncode == 2
    assert re.fullmatch(rf"{name}: .* \(got '{value}'\)\n", done.stderr)


def test_a_host_name_is_refused(model_folder: Path) -> None:
    done = _serve("--model", str(model_folder), "--host", "localhost")
    assert (done.returncode, done.stderr) == (
        2,
        "--host: should be an IP address, such as 127.0.0.1 or 0.0.0.0 (got localhost)\n",
    )
