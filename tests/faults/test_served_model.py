"""The service's model file is replaced while it runs."""

import signal
from pathlib import Path

import pytest

from tests.service.conftest import write_model
from tests.service.server import Server, serving, soon

REQUEST = {"seed": 7, "steps": 4, "n": 2, "class_label": 1}


def _drawn(server: Server) -> list[str]:
    response = server.post(**REQUEST)
    assert response.status_code == 200, response.text
    return [image["b64_json"] for image in response.json()["data"]]


@pytest.mark.parametrize("way", ["cut short in place", "replaced"])
def test_what_runs_goes_on_drawing_the_same_and_what_starts_anew_refuses_a_changed_model(
    tmp_path: Path, way: str
) -> None:
    folder = write_model(tmp_path / "model")
    weights = folder / "model.safetensors"
    with serving(folder, tmp_path / "home") as server:
        before = _drawn(server)
        if way == "replaced":
            other = write_model(tmp_path / "other", class_names=None) / "model.safetensors"
            other.replace(weights)
        else:
            with weights.open("r+b") as file:
                file.truncate(100)
        assert _drawn(server) == before

        worker = server.worker()
        worker.send_signal(signal.SIGKILL)
        assert soon(lambda: "SHA-256 is" in server.log.read_text(), 60, every_sec=0.2), server.log.read_text()
        assert not _answers(server)


def _answers(server: Server) -> bool:
    try:
        return server.post(**REQUEST).status_code == 200
    except OSError:
        return False
