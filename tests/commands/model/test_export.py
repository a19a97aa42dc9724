import sys
from pathlib import Path

import pytest

from pipeline.errors import FoundryError
from tests.export.models import WITH_CLASSES, export, save


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "model", WITH_CLASSES)


def test_a_wrong_suffix_or_an_existing_folder_is_refused_before_any_work(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FoundryError, match=r"--out: should end in .onnx \(got .*model.pt\)"):
        export("onnx", folder, tmp_path / "model.pt")
    with pytest.raises(FoundryError, match="already exists"):
        export("diffusers", folder, tmp_path)


def test_a_missing_package_is_reported_with_the_extra_that_brings_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(FoundryError, match=r"--to diffusers: needs the export extra \(diffusers is missing\)"):
        export("diffusers", folder, tmp_path / "out" / "exported")
    assert list((tmp_path / "out").iterdir()) == []
