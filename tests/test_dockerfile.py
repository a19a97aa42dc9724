"""There need not be a Docker engine here, so the steps of the Dockerfile are read, and run in an empty environment."""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).parents[1]
MAX_INSTALLED_MB = 1300
# Of these names the only one that is wanted: BentoML asks it about cards, and it holds no CUDA.
FOREIGN, HARMLESS = re.compile("mlflow|dvc|pandas|great_expectations|nvidia|triton|cuda"), "nvidia_ml_py"


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments), continued lines joined, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def all_of(wanted: str) -> list[str]:
    return [arguments for instruction, arguments in instructions() if instruction == wanted]


def copied() -> list[Path]:
    """What the Dockerfile takes from the project."""
    return [Path(source) for line in all_of("COPY") if not line.startswith("--from") for source in line.split()[:-1]]


def is_ignored(path: Path) -> bool:
    """Whether .dockerignore keeps a path out of the build: the last pattern that fits it, or a folder above, decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        parts = [path, *path.parents[:-1]]
        fits = any(fnmatch.fnmatch(str(part) if "/" in pattern else part.name, pattern) for part in parts)
        if line and not line.startswith("#") and fits:
            ignored = not line.startswith("!")
    return ignored


def test_the_image_holds_the_service_and_the_core_and_nothing_else_of_the_project() -> None:
    wanted = {"pyproject.toml", "constraints.txt", "service", "pipeline/__init__.py", "pipeline/errors.py"}
    wanted |= {"pipeline/__main__.py", "pipeline/cli.py", "pipeline/artefacts", "pipeline/diffusion"}
    assert {str(path) for path in copied()} == wanted
    assert all((ROOT / path).exists() for path in copied())


def test_everything_that_is_copied_reaches_the_build_and_nothing_else_does() -> None:
    assert not any(is_ignored(path) for path in copied())
    assert not is_ignored(Path("service/static/playground.html"))
    assert not is_ignored(Path("pipeline/diffusion/unet.py"))
    assert not is_ignored(Path("pipeline/artefacts/model.py"))
    for path in (
        "pipeline/train.py",
        "data/model/model.json",
        ".env",
        ".git/config",
        "tests/fakes.py",
        "service/__pycache__",
    ):
        assert is_ignored(Path(path)), path


def test_the_service_runs_without_root_and_says_how_it_is() -> None:
    assert all_of("USER") == ["10001"]
    assert "/readyz" in all_of("HEALTHCHECK")[0]
    assert all_of("ENTRYPOINT")[0].startswith('["python", "-m", "pipeline", "serve", "--host", "0.0.0.0"')
    order = [instruction for instruction, _ in instructions()]
    assert order.index("USER") > max(place for place, name in enumerate(order) if name == "RUN")


def test_it_is_built_for_a_cpu_unless_cuda_is_asked_for() -> None:
    assert "TORCH=cpu" in all_of("ARG")
    assert "UV_TORCH_BACKEND=${TORCH}" in all_of("ENV")


def test_every_install_keeps_to_the_pinned_versions() -> None:
    installs = [line for line in all_of("RUN") if " install " in line]
    assert installs
    assert all("-c constraints.txt" in line or re.search(r"\w==[\d.]+$", line) for line in installs)


def test_uv_is_the_one_that_make_installs() -> None:
    version = re.search(r"UV_VERSION := (\S+)", (ROOT / "Makefile").read_text())
    assert version is not None
    assert f"uv=={version[1]}" in " ".join(all_of("RUN"))


def test_the_manifests_start_what_the_dockerfile_builds() -> None:
    stages = {line.split(" AS ")[1] for line in all_of("FROM")}
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]["foundry"]
    assert compose["build"]["target"] in stages
    deployment, service = yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert str(container["ports"][0]["containerPort"]) in all_of("EXPOSE")
    assert str(pod["securityContext"]["runAsUser"]) in all_of("USER")
    assert "pipeline drain" in container["lifecycle"]["preStop"]["exec"]["command"][-1]
    # Whoever waits longest is still waited for.
    longest_sec = Settings.model_fields["max_request_sec"].default
    assert pod["terminationGracePeriodSeconds"] > longest_sec
    assert int(compose["stop_grace_period"].removesuffix("s")) > longest_sec
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]


@pytest.mark.long
def test_the_same_commands_make_an_environment_that_serves_and_holds_nothing_foreign(tmp_path: Path) -> None:
    context, venv = tmp_path / "context", tmp_path / "venv"
    for path in copied():
        take = shutil.copytree if (ROOT / path).is_dir() else shutil.copyfile
        (context / path).parent.mkdir(parents=True, exist_ok=True)
        take(ROOT / path, context / path)
    # A local CPU build of torch is offered by find-links, which stands for the Dockerfile's TORCH here.
    environment = {**os.environ, "UV_FIND_LINKS": os.environ.get("PIP_FIND_LINKS", "")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    for line in all_of("RUN"):
        if "/opt/venv" in line:
            command = line.replace("/opt/venv", str(venv)).split()
            subprocess.run(command, cwd=context, env=environment, check=True, capture_output=True)

    (packages,) = venv.glob("lib/python*/site-packages")
    found = [path.name for path in packages.glob("*.dist-info") if FOREIGN.search(path.name.lower())]
    assert [name for name in found if not name.startswith(HARMLESS)] == []
    # As `du` counts.
    installed_mb = sum(path.lstat().st_blocks * 512 for path in venv.rglob("*")) / 1e6
    sys.stdout.write(f"installed: {installed_mb:.0f} MB in {len(list(packages.glob('*.dist-info')))} packages\n")
    assert installed_mb < MAX_INSTALLED_MB

    code = "import service.app, service.serve, service.drain, service.replay; print(service.app.__file__)"
    bare = {"PATH": "/usr/bin:/bin", "BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(tmp_path / "bentoml")}
    done = subprocess.run(
        [venv / "bin" / "python", "-c", code], cwd=context, env=bare, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(context / "service" / "app.py")
