import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from service.engine.request import SamplingParams
from service.http.encoding import npy, passport_for, preview_png, zipped

PARAMS = SamplingParams(seed=3, class_label=1, sampler="ddim", num_steps=4, eta=0.5, guidance_scale=2.0)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_preview_keeps_its_pixels(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, channels), np.uint8)
    shown = np.asarray(Image.open(io.BytesIO(preview_png(pixels))))
    assert np.array_equal(shown.reshape(pixels.shape), pixels)


def test_a_passport_names_all_of_the_recipe() -> None:
    passport = passport_for(PARAMS, model_digest="d", repro_id="r", is_exact=False)
    assert (passport.seed, passport.class_label, passport.sampler, passport.num_steps) == (3, 1, "ddim", 4)
    assert (passport.eta, passport.guidance_scale, passport.determinism) == (0.5, 2.0, "fast")
    assert (passport.model_digest, passport.repro_id) == ("d", "r")


def test_an_array_is_loaded_without_pickle() -> None:
    images = [np.full((2, 2, 1), value, np.uint8) for value in (1, 2)]
    loaded = np.load(io.BytesIO(npy(images)), allow_pickle=False)
    assert np.array_equal(loaded, np.stack(images))


def test_equal_files_make_equal_zips() -> None:
    packed = zipped([b"a", b"b"])
    assert packed == zipped([b"a", b"b"])
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {"0.png": b"a", "1.png": b"b"}
