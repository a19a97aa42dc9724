"""What tests of the pipeline share: a tracking store each, and small real images.

The store is a copy of one that was made once (0.07 s instead of 2). The images are scikit-learn's photographs and
handwritten digits, read from its package without importing it.
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray
from PIL import Image

from pipeline.artefacts.files import locked
from pipeline.params import PrepareParams, load_params
from tests import processes
from tests.servers import KEYS, Servers, serving
from tests.small_sets import BETTER_THAN_BASELINES, SMALL_NETWORK

# The same examples on every machine, and no clock: the machine may be busy. Before its first example Hypothesis looks through all
# imported modules for constants (half a second of CPU once MLflow and DVC are imported), and 30 s of that fail a test.
settings.register_profile("foundry", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("foundry")

OUTSIDE = ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI")


LONGEST = ("test_two_runners.py", "test_security.py", "test_pipeline.py")
"""Files that take a minute and more: first, so that no process is left alone with one at the end."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fast", action="store_true", help="leave out tests that train, and end those that start a process"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--fast"):
        items[:] = [item for item in items if not {"trains", "long"} & {mark.name for mark in item.iter_markers()}]
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """After the fixtures of a test: end the processes that it has left running."""
    processes.end_all()


@pytest.fixture(autouse=True, scope="session")
def no_process_in_a_fast_run(request: pytest.FixtureRequest) -> Iterator[None]:
    """With `--fast` a test is skipped as soon as it, or a fixture of it, starts a process."""
    if not request.config.getoption("--fast"):
        yield
        return

    def skip(*_: object, **__: object) -> None:
        pytest.skip("starts a process")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", skip)
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder, for commands in processes of their own."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """A folder by its name, which the first process of tests that needs it makes for all of them; to be copied, not changed."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def folder_of(name: str, make: Callable[[Path], None]) -> Path:
        folder, unfinished = shared / name, shared / f"{name}.unfinished"
        with locked(shared / f"{name}.lock"):
            if not folder.exists():
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                make(unfinished)
                unfinished.rename(folder)
        return folder

    return folder_of


@pytest.fixture(scope="session")
def raced_store(made_once: Callable[[str, Callable[[Path], None]], Path], root: Path) -> tuple[Path, list[str]]:
    """A database that two processes made at once, and the number of experiments that each of them found in it."""

    def make(folder: Path) -> None:
        code = "from pipeline.tracking import store; client = store.connect(); print(len(client.search_experiments()))"
        environment = {**os.environ, "PYTHONPATH": str(root), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        command = [sys.executable, "-c", code]
        processes = [
            subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)
        ]
        (folder / "found.json").write_text(json.dumps([process.communicate()[0] for process in processes]))

    folder = made_once("store", make)
    return folder / "mlflow.db", json.loads((folder / "found.json").read_text())


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder outside of git and of DVC, which tracking takes for the main worktree."""
    for variable in OUTSIDE:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tracking_store(workspace: Path, raced_store: tuple[Path, list[str]]) -> Path:
    """The workspace's store, ready for use."""
    shutil.copyfile(raced_store[0], workspace / "mlflow.db")
    return workspace / "mlflow.db"


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Started once for each process of tests that has a test of them (10 s)."""
    with serving() as running:
        yield running


@pytest.fixture
def tracking_server(workspace: Path, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workspace, whose tracking store is an empty MLflow server."""
    servers.forget()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", servers.tracking_uri)
    return workspace


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty bucket of S3, as moto serves it."""
    import boto3
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    for name, value in (KEYS | {"AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port())}).items():
        monkeypatch.setenv(name, value)
    # A name of its own: all of moto's servers in a process share their buckets.
    name = f"images-{token_hex(4)}"
    boto3.client("s3").create_bucket(Bucket=name)
    yield f"s3://{name}"
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.stop()


@pytest.fixture(scope="session")
def sklearn_data() -> Path:
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "datasets"


@pytest.fixture(scope="session")
def photos(sklearn_data: Path) -> dict[str, Image.Image]:
    """`china` and `flower`, 640x427, RGB."""
    return {name: Image.open(sklearn_data / "images" / f"{name}.jpg").convert("RGB") for name in ("china", "flower")}


@pytest.fixture(scope="session")
def digits(sklearn_data: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images `uint8 [1797, 8, 8]` and labels 0 … 9."""
    with gzip.open(sklearn_data / "data" / "digits.csv.gz") as file:
        table = np.loadtxt(file, delimiter=",")
    return np.round(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8), table[:, -1].astype(np.int64)


@pytest.fixture
def prepare_params() -> Callable[..., PrepareParams]:
    """Params of `prepare` that small sets fulfil, but for what is given."""

    def make(**changes: Any) -> PrepareParams:
        defaults = {
            "source": "images",
            "labelled": True,
            "class_names": None,
            "image_size": 8,
            "channels": 3,
            "background": "white",
            "value_range": None,
            "min_side": 1,
            "held_out_share": 0.2,
            "min_num_images": 2,
            "max_broken_share": 0.5,
            "max_duplicate_share": 0.5,
            "max_blank_share": 0.5,
            "max_noise_share": 1.0,
            "max_class_ratio": 10.0,
        }
        return PrepareParams(**{**defaults, **changes})

    return make


@pytest.fixture
def photo_folder(tmp_path: Path, photos: dict[str, Image.Image]) -> Path:
    """`raw/china` and `raw/flower` with 16 different crops each, of different sizes, in PNG and JPEG."""
    random = np.random.default_rng(0)
    for name, photo in photos.items():
        folder = tmp_path / "raw" / name
        folder.mkdir(parents=True)
        for number in range(16):
            width, height = (int(side) for side in random.integers(40, 120, 2))
            left, top = int(random.integers(0, 640 - width)), int(random.integers(0, 427 - height))
            crop = photo.crop((left, top, left + width, top + height))
            crop.save(folder / f"{number:02}.{'png' if number % 2 else 'jpg'}")
    return tmp_path / "raw"


@pytest.fixture(scope="session")
def small_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a network of a few thousand weights, none of them 0, that draws in milliseconds."""
    import torch

    from pipeline.artefacts.model import DataSpec, Description, build_network, save_model
    from pipeline.artefacts.sampling_defaults import SamplingDefaults
    from pipeline.diffusion.betas import cosine_betas
    from pipeline.diffusion.noise import NoiseSchedule

    description = Description(
        data=DataSpec(image_size=8, channels=1, class_names=("cat", "dog"), sigma_data=0.5),
        network=SMALL_NETWORK,
        target="v",
        sampling=SamplingDefaults(sampler="dpmpp_2m", num_steps=4, guidance_scale=1.0),
        provenance={"data_digest": "da" * 32},
    )
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: weight + 0.1 * torch.randn(weight.shape, generator=generator)
        for name, weight in build_network(description, seed=0).state_dict().items()
    }
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, description, weights=weights, schedule=NoiseSchedule(cosine_betas(50)))
    return folder


@pytest.fixture
def small_model(tmp_path: Path, small_model_folder: Path) -> Path:
    """A copy of `small_model_folder` that a test may change."""
    return Path(shutil.copytree(small_model_folder, tmp_path / "small_model"))


@pytest.fixture
def champion(tracking_store: Path, small_model: Path, tmp_path: Path) -> str:
    """`small_model`, trained in a run and registered as the champion; the URI that names it."""
    from pipeline.artefacts.model import model_digest
    from pipeline.evaluation.results import write_results
    from pipeline.register import register
    from pipeline.registry.gate.evaluation_setup import EvaluationSetup
    from pipeline.tracking import runs

    assert tracking_store.exists()
    with runs.stage_run("train", params={}) as run:
        run.tags({"model.digest": model_digest(small_model)})
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    write_results(evaluation, BETTER_THAN_BASELINES | {"evaluate/kid": 0.01})
    setup = EvaluationSetup(
        prepared=tmp_path, features=tmp_path, params=load_params(Path(__file__).parent / "params.yaml")
    )
    register("small", small_model, evaluation, tmp_path / "registration", setup)
    return "models:/small@champion"
