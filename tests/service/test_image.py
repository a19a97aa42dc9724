"""The image, built by buildah and run in a chroot, without a Docker engine; packages of Debian stand for Docker's image of Python."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from tests.dockerfile import ROOT, arguments_of
from tests.service.server import GENERATIONS, Server, begin, end, free_port, images_of, parse_events, wait_until_ready

MISSING = [name for name in ("buildah", "mmdebstrap") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(MISSING), reason=f"Debian's {' and '.join(MISSING)} are not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes root file systems"),
]
BASE = arguments_of("FROM")[0].split(" AS ")[0].replace("${PYTHON}", arguments_of("ARG")[0].removeprefix("PYTHON="))
MAX_MB = 1000
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True)
class Buildah:
    """buildah with containers and images of its own in a folder."""

    folder: Path

    def command(self, *arguments: str) -> list[str]:
        return ["buildah", "--root", f"{self.folder}/storage", "--runroot", f"{self.folder}/run", *arguments]

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """buildah that has the image from which the Dockerfile starts."""
    made = Buildah(tmp_path_factory.mktemp("buildah"))
    try:
        _make_base(made)
        yield made
    finally:
        # Gigabytes, in file systems that are still mounted.
        made("rm", "--all")
        made("rmi", "--all", "--force")
        shutil.rmtree(made.folder)


def _make_base(buildah: Buildah) -> None:
    found = re.fullmatch(r"python:([\d.]+)-slim-(\w+)", BASE)
    assert found is not None
    python, release = found.groups()
    archive = str(buildah.folder / "base.tar")
    # Docker's image has no documentation either, its python stands in /usr/local, and its pip installs for everybody.
    options = [
        "--variant=minbase",
        f"--include=ca-certificates,passwd,python3-pip,python{python}-venv",
        *(f"--dpkgopt=path-exclude=/usr/share/{unread}/*" for unread in ("doc", "locale", "man")),
        f'--customize-hook=ln -s /usr/bin/python{python} "$1"/usr/local/bin/python',
        f'--customize-hook=rm "$1"/usr/lib/python{python}/EXTERNALLY-MANAGED',
    ]
    done = subprocess.run(["mmdebstrap", *options, release, archive], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    container = buildah("from", "scratch")
    buildah("add", container, archive, "/")
    buildah("config", "--env", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
    buildah("commit", "--rm", container, f"docker.io/library/{BASE}")


@pytest.fixture(scope="module")
def image(buildah: Buildah, model_folder: Path) -> str:
    """The image with a model in it, as `make image` builds it."""
    packed = buildah.folder / "model"
    options = ["--model", str(model_folder), "--folder", str(packed)]
    command = [sys.executable, "-m", "pipeline", "model", "package", *options]
    subprocess.run(command, cwd=buildah.folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    buildah(
        *("build", "--isolation", "chroot", "--pull-never", "--target", "packed", "--build-context", f"model={packed}"),
        *_this_machines_indexes(buildah.folder),
        *("--tag", "diffusion-foundry", str(ROOT)),
    )
    return "diffusion-foundry"


def _this_machines_indexes(folder: Path) -> list[str]:
    """Options of a build that takes packages from where pip does here, by files that are not part of the image."""
    index, links = os.environ.get("PIP_INDEX_URL"), os.environ.get("PIP_FIND_LINKS", "").split()
    pip, uv = {"cert": CERTIFICATES}, {"system-certs": True, "find-links": links}
    if index:
        pip, uv = pip | {"index-url": index}, uv | {"index-url": index}
    (folder / "pip.conf").write_text("\n".join(["[global]", *(f"{name} = {value}" for name, value in pip.items())]))
    (folder / "uv.toml").write_text("\n".join(f"{name} = {json.dumps(value)}" for name, value in uv.items()))
    mounts = {
        f"{folder}/pip.conf": "/etc/pip.conf",
        f"{folder}/uv.toml": "/etc/uv/uv.toml",
        CERTIFICATES: CERTIFICATES,
        **{link: link for link in links if Path(link).is_dir()},
    }
    volumes = [f"--volume={source}:{target}:ro" for source, target in mounts.items()]
    # A local build of torch is taken in the place of that of torch's own index.
    return [*volumes, *(["--build-arg", "TORCH="] if links else [])]


def test_the_image_is_smaller_than_its_budget(buildah: Buildah, image: str) -> None:
    sizes = {}
    for name in (BASE, image):
        root = Path(buildah("mount", buildah("from", "--pull-never", name)))
        sizes[name] = sum(path.lstat().st_size for path in root.rglob("*")) / 1e6
    sys.stdout.write(f"{sizes[image]:.0f} MB, of which {sizes[BASE]:.0f} MB are {BASE}\n")
    assert sizes[image] < MAX_MB


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_the_image_draws_as_its_user_and_answers_open_requests_before_it_ends(
    buildah: Buildah, image: str, backend: str, tmp_path: Path
) -> None:
    [user] = {int(each) for each in arguments_of("USER")}
    container = buildah("from", "--pull-never", image)
    server = _started(buildah, container, tmp_path / "log", FOUNDRY_BACKEND=backend)
    try:
        wait_until_ready(server)
        supervisor, *others = server.processes()
        assert {process.uids().real for process in (supervisor, *others)} == {user}
        [picture] = images_of(server.post(seed=1, class_label="cat"))
        assert Image.open(BytesIO(picture)).size == (8, 8)
        with ExitStack() as stack, server.client() as client:
            # Work that goes first, so that the stream is still open when the service is told to end.
            for _ in range(12):
                begin(server, {"n": 8, "steps": 100, "guidance_scale": 2.0, "class_label": 0, "priority": 9}, stack)
            response = stack.enter_context(client.stream("POST", GENERATIONS, json={"n": 2, "stream": True}))
            text = response.iter_text()
            accepted = next(text)
            supervisor.terminate()
            names = [name for name, _ in parse_events(accepted + "".join(text))]
            assert names.count("image_generation.completed") == 2
        assert server.process.wait() == 0
    finally:
        end(server)
    root = Path(buildah("mount", container))
    written = {str(path.relative_to(root)) for path in root.rglob("*") if path.lstat().st_uid == user}
    assert [path for path in written if not path.startswith(("home/foundry", "tmp/"))] == []


def _started(buildah: Buildah, container: str, log: Path, **environment: str) -> Server:
    """The entry point in the container, on a free port of the loopback address."""
    image = json.loads(buildah("inspect", container))["OCIv1"]
    port = free_port()
    variables = [f"--env={name}={value}" for name, value in environment.items()]
    command = [*image["config"]["Entrypoint"], "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            buildah.command("run", "--isolation", "chroot", *variables, container, "--", *command),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Server(process, port, log)
