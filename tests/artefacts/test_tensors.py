import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from pipeline.artefacts.files import UnwritableError
from pipeline.artefacts.tensors import load_tensors, save_tensors
from pipeline.errors import ArtefactError


def test_tensors_stay_as_they_were_when_their_file_is_cut_short(tmp_path: Path, root: Path) -> None:
    """In a process of its own: pages of a memory map that are no longer there would end it with SIGBUS."""
    save_tensors(tmp_path / "a.safetensors", {"a": torch.arange(100_000)})
    code = """
import os, sys, torch
from pathlib import Path
from pipeline.artefacts.tensors import load_tensors
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


@given(st.data())
def test_a_changed_bit_is_told(data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        tensors = {"weight": torch.arange(12.0).view(3, 4), "count": torch.tensor(7), "half": torch.ones(3).bfloat16()}
        save_tensors(path, tensors)
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1), label="byte")
        content[place] ^= 1 << data.draw(st.integers(0, 7), label="bit")
        path.write_bytes(content)
        found = _read(path)
        # What is left to be changed in silence is white space of the header, and the digest's own name.
        assert found is None or found.keys() == tensors.keys()
        assert found is None or all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def _read(path: Path) -> dict[str, torch.Tensor] | None:
    """What a file holds; None where it is refused by its name."""
    try:
        return load_tensors(path)
    except ArtefactError as error:
        return None if str(path) in str(error) else {}


def test_files_without_a_digest_are_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    assert torch.equal(load_tensors(tmp_path / "a.safetensors")["a"], torch.ones(2))


def test_the_same_tensors_are_the_same_bytes_whatever_their_order_and_layout(tmp_path: Path) -> None:
    a, b = torch.rand(2, 3, 4, 4), torch.rand(5)
    save_tensors(tmp_path / "1.safetensors", {"a": a, "b": b})
    save_tensors(tmp_path / "2.safetensors", {"b": b, "a": a.to(memory_format=torch.channels_last)})
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnwritableError, match=rf"{tmp_path}/none/a\.safetensors: cannot be written: No such file"):
        save_tensors(tmp_path / "none" / "a.safetensors", {"a": torch.zeros(1)})
