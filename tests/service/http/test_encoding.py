import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from service.http.encoding import npy, preview_png, zipped


@pytest.mark.parametrize("channels", [1, 3])
def test_a_preview_keeps_its_pixels(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, channels), np.uint8)
    shown = np.asarray(Image.open(io.BytesIO(preview_png(pixels))))
    assert np.array_equal(shown.reshape(pixels.shape), pixels)


def test_an_array_is_loaded_without_pickle() -> None:
    images = [np.full((2, 2, 1), value, np.uint8) for value in (1, 2)]
    loaded = np.load(io.BytesIO(npy(images)), allow_pickle=False)
    assert np.array_equal(loaded, np.stack(images))


def test_equal_files_make_equal_zips() -> None:
    packed = zipped([b"a", b"b"])
    assert packed == zipped([b"a", b"b"])
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {"0.png": b"a", "1.png": b"b"}
