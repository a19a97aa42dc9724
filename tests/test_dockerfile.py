"""The image of the service, without a Docker engine: the Dockerfile's paths are copied and its commands run here."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from functools import partial
from pathlib import Path

import pytest
import yaml

from pipeline.export.requirements import SOURCES
from service.settings import Settings
from tests.dockerfile import ROOT, arguments_of

MAX_INSTALLED_MB = 850
# nvidia_ml_py alone is wanted: BentoML looks for GPUs with it, and it contains no CUDA.
FOREIGN, HARMLESS = re.compile("mlflow|dvc|pandas|great_expectations|nvidia|triton|cuda"), "nvidia_ml_py"
IMPORTS = "import service.app, service.http.middleware, service.serve, service.drain, service.replay; print(service.app.__file__)"


def copied() -> list[str]:
    """Paths that the Dockerfile copies from the project."""
    return [path for line in arguments_of("COPY") if not line.startswith("--from") for path in line.split()[:-1]]


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """An empty folder with what the Dockerfile copies."""
    for path in copied():
        copy = shutil.copytree if (ROOT / path).is_dir() else shutil.copyfile
        (tmp_path / "context" / path).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / path, tmp_path / "context" / path)
    return tmp_path / "context"


def run_in(context: Path, python: Path, *arguments: str, **environment: str) -> str:
    environment |= {"PATH": "/usr/bin:/bin", "BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(context / "bentoml")}
    command = [str(python), *arguments]
    done = subprocess.run(command, cwd=context, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_copied_files_hold_all_that_the_service_imports(context: Path) -> None:
    # Without `site`, whose .pth files would find in this project what was not copied.
    run = partial(run_in, context, Path(sys.executable), "-S", PYTHONPATH=sysconfig.get_path("purelib"))
    assert run("-c", IMPORTS).strip() == str(context / "service" / "app.py")
    # The entry point's command line, up to its options.
    *command, _, _, _, _, _, _ = yaml.safe_load(arguments_of("ENTRYPOINT")[0])[1:]
    assert "--host" in run(*command, "--help")


def test_dockerignore_admits_everything_that_is_copied() -> None:
    admitted = [line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"]
    assert [path for path in copied() if path.rstrip("/") not in admitted] == []


def test_a_bento_and_the_image_hold_the_same_code() -> None:
    in_image = {path.rstrip("/") for path in copied()} - {"pyproject.toml", "constraints.txt"}
    assert {pattern.removesuffix("/**/*") for pattern in SOURCES} == in_image


def test_uv_is_the_one_that_make_installs() -> None:
    version = re.search(r"UV_VERSION := (\S+)", (ROOT / "Makefile").read_text())
    assert version is not None
    assert f"uv=={version[1]}" in " ".join(arguments_of("RUN"))


def test_the_manifests_start_what_the_dockerfile_builds() -> None:
    stages = {line.split(" AS ")[1] for line in arguments_of("FROM")}
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]["foundry"]
    assert compose["build"]["target"] in stages
    manifests = list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text()))
    deployment, service = (
        next(each for each in manifests if each["kind"] == kind) for kind in ("Deployment", "Service")
    )
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert [str(container["ports"][0]["containerPort"])] == arguments_of("EXPOSE")
    assert [str(pod["securityContext"]["runAsUser"])] == arguments_of("USER")
    assert "pipeline drain" in container["lifecycle"]["preStop"]["exec"]["command"][-1]
    # A stop has to wait for the longest request.
    longest_sec = Settings.model_fields["max_request_sec"].default
    assert pod["terminationGracePeriodSeconds"] > longest_sec
    assert int(compose["stop_grace_period"].removesuffix("s")) > longest_sec
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]


@pytest.mark.long
def test_the_dockerfiles_commands_make_an_environment_that_serves_without_foreign_packages(
    context: Path, tmp_path: Path
) -> None:
    venv = tmp_path / "venv"
    # A local CPU build of torch is taken in the place of that of torch's own index.
    links = os.environ.get("PIP_FIND_LINKS", "")
    environment = {**os.environ, "UV_FIND_LINKS": links, "TORCH": "" if links else "cpu"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    for line in arguments_of("RUN"):
        if "/opt/venv" in line:
            command = ["sh", "-c", line.replace("/opt/venv", str(venv))]
            subprocess.run(command, cwd=context, env=environment, check=True, capture_output=True)

    (packages,) = venv.glob("lib/python*/site-packages")
    found = [path.name for path in packages.glob("*.dist-info") if FOREIGN.search(path.name.lower())]
    assert [name for name in found if not name.startswith(HARMLESS)] == []
    # As `du` counts.
    installed_mb = sum(path.lstat().st_blocks * 512 for path in venv.rglob("*")) / 1e6
    sys.stdout.write(f"installed: {installed_mb:.0f} MB in {len(list(packages.glob('*.dist-info')))} packages\n")
    assert installed_mb < MAX_INSTALLED_MB
    assert run_in(context, venv / "bin" / "python", "-c", IMPORTS).strip() == str(context / "service" / "app.py")
