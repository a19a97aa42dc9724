import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.environment import PREFIX, VARIABLES, check_environment
from pipeline.errors import FoundryError
from service.settings import Settings
from tests.command_line import foundry

ROOT = Path(__file__).parents[1]


def test_the_list_has_every_variable_that_the_code_reads_and_every_setting() -> None:
    code = "".join(
        path.read_text() for room in ("pipeline", "service", "benchmarks") for path in ROOT.glob(f"{room}/**/*.py")
    )
    # _FOUNDRY_COMPLETE is click's, for completion in a shell.
    assert set(re.findall(rf"(?<!_){PREFIX}[A-Z_]*[A-Z]", code)) <= VARIABLES
    assert {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} <= VARIABLES


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("FOUNDRY_APIKEYS", "API_KEYS"),
        ("FOUNDRY_KEYS", "API_KEYS"),
        ("FOUNDRY_API_KEYZ", "API_KEY"),
        ("FOUNDRY_THREAD", "THREADS"),
        ("FOUNDRY_CORS_ORIGIN", "CORS_ORIGINS"),
        ("FOUNDRY_ALLOWED_HOST", "ALLOWED_HOSTS"),
        ("FOUNDRY_PASSPORT_KEYS", "PASSPORT_KEY"),
    ],
)
def test_a_mistyped_name_is_an_error_with_a_hint(name: str, meant: str) -> None:
    with pytest.raises(FoundryError, match=f"{name}: there is no such variable; is FOUNDRY_{meant}S? meant"):
        check_environment({name, "PATH"})


def test_other_names_are_named_in_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    # Kubernetes sets these for a Service with the name foundry.
    check_environment({"FOUNDRY_PORT_80_TCP_ADDR", "FOUNDRY_SERVICE_HOST", *VARIABLES})
    assert capsys.readouterr().err.splitlines() == [
        "FOUNDRY_PORT_80_TCP_ADDR: no command reads this variable",
        "FOUNDRY_SERVICE_HOST: no command reads this variable",
    ]


def test_every_command_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUNDRY_COMPLIE", "1")
    with pytest.raises(FoundryError, match="is FOUNDRY_COMPILE meant"):
        foundry("drain", "--port", "1")


def test_a_key_for_clients_is_no_key_of_the_service(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "serve", "--model", str(tmp_path)],
        env={"PATH": "", "FOUNDRY_API_KEY": "secret"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "FOUNDRY_API_KEY: is a client's; the service wants FOUNDRY_API_KEYS, or neither of them\n"
