import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.faults import small_project


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, digits: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> Path:
    """A project in which every stage has run; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("made")
    small_project.write_inputs(folder, digits)
    done = small_project.run(folder, [sys.executable, "-m", "tests.faults.stages"])
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def project(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("copy") / "project"))
