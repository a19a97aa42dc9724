"""The program of torch.export, compared with our own denoiser."""

import zipfile
from pathlib import Path

import pytest
import torch

import pipeline
from pipeline.artefacts.model import Model, load_model
from pipeline.errors import FoundryError
from pipeline.export import denoiser
from pipeline.export.torch_export import write_torch_export
from tests.export.models import WITHOUT_CLASSES, export, save


def test_the_program_denoises_as_the_model_does_and_contains_no_pickle_and_no_path(tmp_path: Path) -> None:
    folder, out = save(tmp_path / "model", WITHOUT_CLASSES), tmp_path / "model.pt2"
    export("torch-export", folder, out)
    program = torch.export.load(out).module()
    x, t = torch.randn(3, 4, 8, 12, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 30, 49])
    torch.testing.assert_close(program(x, t), load_model(folder).denoiser()(x, t, None), atol=1e-4, rtol=0)
    with zipfile.ZipFile(out) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    assert not any(content.startswith(b"\x80") for name, content in contents.items() if name.endswith(".pt"))
    assert not any(str(Path(pipeline.__file__).parent).encode() in content for content in contents.values())


def test_a_network_that_cannot_be_traced_is_refused_with_the_reason(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(_: object, x: torch.Tensor, *_rest: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x

    monkeypatch.setattr(denoiser.ExportableDenoiser, "forward", forward)
    with pytest.raises(FoundryError, match="cannot be written in this format"):
        write_torch_export(model, tmp_path / "model.pt2")
