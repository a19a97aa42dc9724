import io
import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.artefacts.passport import SIGNATURE, TEXT, Passport, PassportError, load, read

PASSPORT = Passport(
    model_digest="0a" * 32,
    seed=2**63 - 1,
    num_steps=20,
    sampler="ddim",
    eta=0.1,
    class_label=3,
    guidance_scale=2.5,
    determinism="exact",
    repro_id="0123456789abcdef",
)
KEY = b"a key"
IMAGE = np.random.default_rng(0).integers(0, 256, (8, 8, 1), np.uint8)


def chunks(png: bytes) -> dict[str, str]:
    """The text chunks as any other reader of PNG sees them."""
    found, at = {}, 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        if kind == b"tEXt":
            keyword, text = body.split(b"\0")
            found[keyword.decode("latin-1")] = text.decode("latin-1")
        at += 12 + length
    return found


def repacked(png: bytes, *, image: np.ndarray | None = None, **changed: str | None) -> bytes:
    """The PNG written anew, with other pixels or text chunks where they are given; None leaves a chunk out."""
    texts = {TEXT: chunks(png).get(TEXT), SIGNATURE: chunks(png).get(SIGNATURE)}
    texts |= {{"text": TEXT, "signature": SIGNATURE}[name]: text for name, text in changed.items()}
    info, file = PngInfo(), io.BytesIO()
    for name, text in texts.items():
        if text is not None:
            info.add_text(name, text)
    pixels = read(png, None).image if image is None else image
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(
        file, format="png", pnginfo=info, compress_level=1
    )
    return file.getvalue()


@given(
    st_numpy.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))),
    st.sampled_from([None, KEY]),
    st.integers(0, 2**63 - 1),
    st.one_of(st.none(), st.integers(0, 1000)),
    st.floats(0, 1),
)
def test_a_picture_comes_back_with_its_pixels_and_its_passport(
    image: np.ndarray, key: bytes | None, seed: int, class_label: int | None, eta: float
) -> None:
    passport = replace(PASSPORT, seed=seed, class_label=class_label, eta=eta)
    picture = read(passport.png(image, key), key)
    assert picture.passport == passport
    assert picture.is_verified == (key is not None)
    np.testing.assert_array_equal(picture.image, image)


def test_the_same_picture_has_the_same_bytes() -> None:
    assert PASSPORT.png(IMAGE, KEY) == PASSPORT.png(IMAGE.copy(order="F"), KEY)


def test_any_reader_of_png_finds_the_passport_as_json() -> None:
    found = chunks(PASSPORT.png(IMAGE, None))
    assert set(found) == {TEXT}
    assert json.loads(found[TEXT]) == {
        "model_digest": "0a" * 32,
        "seed": 2**63 - 1,
        "num_steps": 20,
        "sampler": "ddim",
        "eta": 0.1,
        "class_label": 3,
        "guidance_scale": 2.5,
        "determinism": "exact",
        "repro_id": "0123456789abcdef",
    }


def test_a_picture_that_is_packed_anew_keeps_its_signature() -> None:
    png = PASSPORT.png(IMAGE, KEY)
    smaller = repacked(png)
    assert smaller != png
    assert read(smaller, KEY).is_verified


def test_without_a_key_a_signed_passport_is_read_and_not_verified() -> None:
    assert not read(PASSPORT.png(IMAGE, KEY), None).is_verified


SIGNED = PASSPORT.png(IMAGE, KEY)
OTHER = replace(PASSPORT, seed=7).png(255 - IMAGE, KEY)
TAMPERED = {
    "another seed": repacked(SIGNED, text=chunks(SIGNED)[TEXT].replace(str(2**63 - 1), "1")),
    "a space more": repacked(SIGNED, text=chunks(SIGNED)[TEXT] + " "),
    "one pixel": repacked(SIGNED, image=np.where(np.indices(IMAGE.shape).sum(0) == 0, IMAGE ^ 1, IMAGE)),
    "the same pixels in another shape": repacked(SIGNED, image=IMAGE.reshape(4, 16, 1)),
    "the passport of another picture": repacked(SIGNED, text=chunks(OTHER)[TEXT], signature=chunks(OTHER)[SIGNATURE]),
    "half a signature": repacked(SIGNED, signature=chunks(SIGNED)[SIGNATURE][:32]),
    "no ASCII": repacked(SIGNED, signature="é" * 64),
    "signed with another key": PASSPORT.png(IMAGE, b"another key"),
}


@pytest.mark.parametrize("change", TAMPERED)
def test_what_was_changed_after_signing_is_refused(change: str) -> None:
    with pytest.raises(PassportError, match="the signature does not match"):
        read(TAMPERED[change], KEY)


def test_a_signature_cannot_be_left_out_where_a_key_is_set() -> None:
    with pytest.raises(PassportError, match="the passport is not signed, and FOUNDRY_PASSPORT_KEY is set"):
        read(repacked(SIGNED, signature=None), KEY)


def _text(**changes: object) -> str:
    document = {**json.loads(chunks(SIGNED)[TEXT]), **changes}
    return json.dumps({key: value for key, value in document.items() if value != "gone"})


UNREADABLE = {
    "no PNG": (b"GIF89a", "not a PNG"),
    "nothing": (b"", "not a PNG"),
    "half a PNG": (SIGNED[:-30], "not a complete PNG"),
    "another picture's": (repacked(SIGNED, text=None), "no passport: there is no text chunk foundry.passport"),
    "not JSON": (repacked(SIGNED, text="{"), "passport: .*JSON"),
    "a list": (repacked(SIGNED, text="[]"), "passport: .*"),
    "a text for a number": (repacked(SIGNED, text=_text(seed="1")), "passport: seed: Input should be a valid integer"),
    "true for a number": (repacked(SIGNED, text=_text(num_steps=True)), "passport: num_steps"),
    "an unknown sampler": (repacked(SIGNED, text=_text(sampler="euler")), "passport: sampler: Input should be 'ddpm'"),
    "a seed below 0": (repacked(SIGNED, text=_text(seed=-1)), "passport: seed: Input should be greater"),
    "a field too many": (repacked(SIGNED, text=_text(prompt="x")), "passport: prompt: Unexpected"),
    "a field too few": (repacked(SIGNED, text=_text(repro_id="gone")), "passport: repro_id: Field required"),
}


@pytest.mark.parametrize("fault", UNREADABLE)
def test_what_has_no_readable_passport_is_refused_with_the_reason(fault: str) -> None:
    png, message = UNREADABLE[fault]
    with pytest.raises(PassportError, match=message):
        read(png, None)


def test_a_picture_of_many_pixels_and_few_bytes_is_refused() -> None:
    file = io.BytesIO()
    Image.new("1", (20_000, 4097)).save(file, format="png")
    with pytest.raises(PassportError, match="the image is too large"):
        read(file.getvalue(), None)


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(PassportError, match=r"no\.png: No such file"):
        load(tmp_path / "no.png", None)
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(PassportError, match=r"text\.png: not a PNG"):
        load(tmp_path / "text.png", None)
