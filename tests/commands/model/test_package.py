import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.artefacts.model import ONNX, model_digest
from pipeline.errors import ArtefactError, FoundryError
from pipeline.export import bundle, requirements
from pipeline.tracking import store
from tests.command_line import foundry
from tests.service.server import Server, end, free_port, wait_until_ready

pytestmark = pytest.mark.usefixtures("workspace")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run the command; returns its output."""
    capsys.readouterr()
    foundry("model", "package", *arguments)
    return capsys.readouterr().out.strip()


def test_a_folder_is_checked_and_copied_by_its_digest(small_model: Path, workspace: Path) -> None:
    (small_model / "snapshots.safetensors").write_bytes(b"not for serving")
    fetched = bundle.fetch(str(small_model))
    assert fetched.folder == workspace / ".foundry" / "models" / model_digest(small_model)
    assert sorted(path.name for path in fetched.folder.iterdir()) == ["model.json", "model.safetensors"]
    assert fetched.origin == {"model.digest": fetched.digest, "data.digest": "da" * 32}


def test_a_fetched_model_stays_when_its_source_changes(small_model: Path) -> None:
    fetched = bundle.fetch(str(small_model))
    (small_model / "model.safetensors").write_bytes(b"another training")
    with pytest.raises(ArtefactError, match=r"model\.safetensors: SHA-256 is"):
        bundle.fetch(str(small_model))
    assert model_digest(fetched.folder) == fetched.digest


def test_a_damaged_copy_is_replaced(small_model: Path) -> None:
    fetched = bundle.fetch(str(small_model))
    (fetched.folder / "model.safetensors").write_bytes(b"")
    assert bundle.fetch(str(small_model)) == fetched
    assert model_digest(fetched.folder) == fetched.digest


def test_a_registered_model_has_its_origin(champion: str, small_model: Path) -> None:
    fetched = bundle.fetch(champion)
    assert fetched.digest == model_digest(small_model)
    assert (fetched.name, fetched.tag) == ("small", f"1-{fetched.digest[:16]}")
    assert fetched.origin["mlflow.version"] == "1"
    assert fetched.origin["mlflow.run_id"]
    assert fetched.origin["model.digest"] == fetched.digest
    assert fetched.origin["data.digest"] == "da" * 32
    assert fetched.origin["decision"] == "accept"
    assert bundle.fetch("models:/small/1") == fetched


@pytest.mark.usefixtures("champion")
def test_a_registered_model_with_another_digest_than_its_tag_is_refused() -> None:
    store.connect().set_model_version_tag("small", "1", "model.digest", "0" * 64)
    with pytest.raises(ArtefactError, match=rf"models:/small/1: holds a model .* the registry wants {'0' * 64}"):
        bundle.fetch("models:/small@champion")


def test_the_onnx_file_is_written_once_and_a_damaged_one_replaced(small_model: Path) -> None:
    fetched = bundle.fetch(str(small_model))
    bundle.add_onnx(fetched)
    file = fetched.folder / ONNX
    content, written = file.read_bytes(), file.stat().st_mtime_ns
    bundle.add_onnx(fetched)
    assert file.stat().st_mtime_ns == written
    file.write_bytes(b"half a file")
    bundle.add_onnx(fetched)
    assert file.read_bytes() == content
    assert model_digest(fetched.folder) == fetched.digest


def test_without_onnx_runtime_a_model_is_packed_without_its_onnx_file(
    small_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    foundry("model", "package", "--model", small_model, "--resolve")
    printed = capsys.readouterr()
    assert model_digest(Path(printed.out.strip())) == model_digest(small_model)
    assert "not for ONNX Runtime: onnxruntime is missing; the export extra brings it" in printed.err


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("models:/small@previous", "alias"),
        ("models:/small/2", "Model Version"),
        ("models:/large@champion", "large"),
        ("models:/small", "should be models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("runs:/abc/model", "should be models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("no/such/folder", r"no/such/folder/model\.json: not found, wanted the folder of a model"),
    ],
)
@pytest.mark.usefixtures("champion")
def test_an_unknown_model_is_reported_in_one_line(uri: str, message: str) -> None:
    with pytest.raises(FoundryError, match=message) as error:
        bundle.fetch(uri)
    assert "\n" not in str(error.value)


def test_a_folder_is_written_on_request_and_never_overwritten(
    small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = Path(run(capsys, "--model", small_model, "--resolve"))
    assert model_digest(kept) == model_digest(small_model)
    out = tmp_path / "deep" / "folder"
    assert run(capsys, "--model", small_model, "--folder", out) == str(out)
    assert model_digest(out) == model_digest(small_model)
    with pytest.raises(FoundryError, match="already exists"):
        run(capsys, "--model", small_model, "--folder", out)


@pytest.mark.usefixtures("champion")
def test_without_a_name_the_champion_of_params_yaml_is_packed(
    root: Path, workspace: Path, small_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = (root / "tests" / "params.yaml").read_text()
    (workspace / "params.yaml").write_text(re.sub(r"model_name: \S+", "model_name: small", params))
    assert Path(run(capsys, "--resolve")).name == model_digest(small_model)


def test_the_services_packages_are_those_of_pyproject_and_none_of_the_pipelines(root: Path) -> None:
    names = set(requirements.served())
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert set(project["optional-dependencies"]["serve"]) <= names
    assert not names & {"mlflow", "dvc", "pandas", "great-expectations", "diffusers", "onnx", "matplotlib"}
    assert [line for line in requirements.pinned() if not re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", line)] == []
    assert "torch==2.13.0" in requirements.pinned()


def test_the_bill_of_materials_lists_every_package_of_the_service(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = ((tmp_path / name) for name in ("first.json", "second.json"))
    run(capsys, "--sbom", first)
    run(capsys, "--sbom", second)
    assert first.read_bytes() == second.read_bytes()
    bill = json.loads(first.read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert {part["name"] for part in bill["components"]} == set(requirements.served())
    references = {part["bom-ref"] for part in bill["components"]}
    assert len(references) == len(bill["components"])
    edges = {entry["ref"]: set(entry.get("dependsOn", [])) for entry in bill["dependencies"]}
    application = bill["metadata"]["component"]["bom-ref"]
    assert edges.keys() == references | {application}
    assert set.union(*edges.values()) <= references
    assert _reference(bill, "bentoml") in edges[application]
    assert any(reference.startswith("pkg:pypi/starlette@") for reference in edges[_reference(bill, "fastapi")])


def _reference(bill: dict[str, Any], name: str) -> str:
    return next(str(part["bom-ref"]) for part in bill["components"] if part["name"] == name)


def test_a_bento_is_built_without_a_network_once_and_serves_the_registered_model(
    champion: str, root: Path, tmp_path: Path
) -> None:
    home = tmp_path / "bentoml"
    digest = bundle.fetch(champion).digest
    environment = {**os.environ, "PYTHONPATH": str(root), "BENTOML_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [*_without_network(), sys.executable, "-m", "pipeline", "model", "package", "--model", champion]
    tags = [
        subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout for _ in "12"
    ]
    tag = tags[0].strip()
    assert re.fullmatch(rf"diffusion-foundry:small-1-{digest[:16]}-[0-9a-f]{{8}}", tag)
    assert tags[0] == tags[1]

    bento = home / "bentos" / tag.replace(":", "/")
    description = yaml.safe_load((bento / "bento.yaml").read_text())
    assert [model["tag"] for model in description["models"]] == [f"small:1-{digest[:16]}"]
    assert description["labels"]["model.digest"] == digest
    sources = {str(path.relative_to(bento / "src")) for path in (bento / "src").rglob("*") if path.is_file()}
    assert {"service/app.py", "service/static/playground/page.html", "pipeline/__init__.py"} <= sources
    assert {name.split("/")[1] for name in sources if name.startswith("pipeline/")} == {
        "__init__.py",
        "__main__.py",
        "address.py",
        "artefacts",
        "cli.py",
        "cpus.py",
        "diffusion",
        "device.py",
        "environment.py",
        "errors.py",
    }
    packages = (bento / "env" / "python" / "requirements.txt").read_text()
    assert {line for line in packages.split() if "==" not in line} == set()

    model = home / "models" / "small" / f"1-{digest[:16]}"
    files = {path.name for path in model.iterdir()}
    assert files == {"denoiser.onnx", "model.json", "model.safetensors", "model.yaml"}
    metadata = yaml.safe_load((model / "model.yaml").read_text())["metadata"]
    assert {"mlflow.version", "mlflow.run_id", "model.digest", "data.digest", "decision"} <= metadata.keys()

    (model / "denoiser.onnx").unlink()
    subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    assert {path.name for path in model.iterdir()} == files

    served = _served(tag, environment, tmp_path)
    assert (served["id"], served["digest"]) == ("small", digest)


def _without_network() -> list[str]:
    """The prefix that runs a command without a network, if namespaces are allowed here."""
    probe = ["unshare", "--net", "true"]
    can = shutil.which("unshare") and subprocess.run(probe, capture_output=True, check=False).returncode == 0
    return probe[:-1] if can else []


def _served(tag: str, environment: dict[str, str], elsewhere: Path) -> dict[str, Any]:
    """Serve the Bento; returns the model as the service lists it."""
    port, log = free_port(), elsewhere / "served.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "bentoml", "serve", tag, "--host", "127.0.0.1", "--port", str(port)],
            # The service has to find the code in the Bento, not ours.
            env={**environment, "PYTHONPATH": "", "BENTOML_DO_NOT_TRACK": "True"},
            cwd=elsewhere,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    server = Server(process, port, log)
    try:
        wait_until_ready(server)
        [model] = server.get("/v1/models").json()["data"]
        assert server.post(model="small", steps=1).status_code == 200
        return dict(model)
    finally:
        end(server)
