import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.faults import small_project


@pytest.fixture(scope="session")
def made(
    made_once: Callable[[str, Callable[[Path], None]], Path], digits: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> Path:
    """A project in which every stage has run; to be copied, not changed."""

    def make(folder: Path) -> None:
        small_project.write_inputs(folder, digits)
        done = small_project.run(folder, [sys.executable, "-m", "tests.faults.stages"])
        assert done.returncode == 0, done.stderr

    return made_once("made", make)


@pytest.fixture(scope="module")
def project(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("copy") / "project"))
