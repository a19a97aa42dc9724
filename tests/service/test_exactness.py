from pathlib import Path

import pytest

from service import exactness
from service.engine.stepper import Stepper


def test_pictures_have_the_same_bits_alone_and_together(model_folder: Path) -> None:
    assert exactness.exactness(model_folder) == {"together": 0, "without_recording": 0}


def test_pictures_that_depend_on_others_are_counted(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Stepper.image

    def depends_on_others(stepper: Stepper, job: object) -> object:
        return drawn(stepper, job) + (len(stepper._slots) > 1)  # type: ignore[arg-type]

    monkeypatch.setattr(Stepper, "image", depends_on_others)
    assert exactness.exactness(model_folder) == {"together": len(exactness.PICTURES), "without_recording": 0}
