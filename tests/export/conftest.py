from pathlib import Path

import pytest

from pipeline.artefacts.model import Model, load_model
from tests.export.models import WITH_CLASSES, save


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("exported") / "model", WITH_CLASSES)


@pytest.fixture(scope="session")
def model(folder: Path) -> Model:
    return load_model(folder)
