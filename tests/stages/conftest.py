"""A trained project, made once for the tests of all stages that train."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stages.trainings import Digits, write_project


@pytest.fixture(scope="session")
def trained(
    made_once: Callable[[str, Callable[[Path], None]], Path],
    raced_store: tuple[Path, list[str]],
    root: Path,
    digits: Digits,
) -> Path:
    """The project of `trainings`, as it is after its training."""

    def make(folder: Path) -> None:
        shutil.copyfile(raced_store[0], folder / "mlflow.db")
        write_project(folder, root, digits)

    return made_once("trained", make)


@pytest.fixture(scope="module")
def project(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it, with its model `whole`, its runs and its resume state."""
    return Path(shutil.copytree(trained, tmp_path_factory.mktemp("project"), dirs_exist_ok=True))


@pytest.fixture
def fresh(trained: Path, raced_store: tuple[Path, list[str]], tmp_path: Path) -> Path:
    """The same project without any model, resume state or run."""
    shutil.copyfile(trained / "params.yaml", tmp_path / "params.yaml")
    shutil.copytree(trained / "data", tmp_path / "data")
    shutil.copyfile(raced_store[0], tmp_path / "mlflow.db")
    return tmp_path
