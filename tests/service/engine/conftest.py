from collections.abc import Iterator
from pathlib import Path

import pytest

from service.engine.engine import Engine
from tests.service.engine.engines import load_stepper, running


@pytest.fixture(scope="session")
def engine(model_folder: Path) -> Iterator[Engine]:
    """A running engine with the small model."""
    with running(lambda: load_stepper(model_folder)) as engine:
        yield engine
