import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.diffusion.files import UnwritableError
from pipeline.diffusion.tensors import load_tensors, save_tensors


def test_tensors_stay_as_they_were_when_their_file_is_cut_short(tmp_path: Path, root: Path) -> None:
    """In a process of its own: pages of a memory map that are no longer there would end it with SIGBUS."""
    save_tensors(tmp_path / "a.safetensors", {"a": torch.arange(100_000)})
    code = """
import os, sys, torch
from pathlib import Path
from pipeline.diffusion.tensors import load_tensors
tensors = load_tensors(Path(sys.argv[1]))
os.truncate(sys.argv[1], 0)
sys.exit(not torch.equal(tensors["a"], torch.arange(100_000)))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.safetensors")], cwd=root, check=False)
    assert done.returncode == 0


def test_tensors_come_back_with_their_types_and_shapes(tmp_path: Path) -> None:
    tensors = {"a": torch.rand(2, 3, dtype=torch.float64), "b": torch.tensor([True]), "c": torch.empty(0, 4)}
    save_tensors(tmp_path / "a.safetensors", tensors)
    found = load_tensors(tmp_path / "a.safetensors")
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnwritableError, match=rf"{tmp_path}/none/a\.safetensors: cannot be written: No such file"):
        save_tensors(tmp_path / "none" / "a.safetensors", {"a": torch.zeros(1)})
