"""A folder in which everything is that should not be in a folder of images."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.artefacts.dataset import Dataset
from pipeline.params import PrepareParams
from pipeline.prepare import prepare


def _bomb(side: int) -> bytes:
    """A grey PNG of side x side pixels, all black: some hundred kilobytes for 20,000."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + side // 8)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_hostile_files_are_listed_with_their_reasons_and_the_rest_is_prepared(
    photo_folder: Path, tmp_path: Path, prepare_params: Callable[..., PrepareParams]
) -> None:
    class_folder = photo_folder / "china"
    secret = tmp_path / "secret.png"
    Image.new("RGB", (16, 16), "red").save(secret)
    (class_folder / "bomb.png").write_bytes(_bomb(20_000))
    (class_folder / "text.png").write_text("I am no picture.")
    (class_folder / "out.png").symlink_to(secret)
    (class_folder / "empty.png").touch()
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(class_folder / "nan.tiff")
    Image.new("RGB", (1, 1), "blue").save(class_folder / "tiny.png")
    odd = photo_folder / "größe, 大 und klein"
    odd.mkdir()
    for number in range(8):
        noise = np.random.default_rng(number).integers(0, 256, (12, 12, 3), np.uint8)
        Image.fromarray(noise).save(odd / f"ein Bild № {number}.png")

    out = tmp_path / "out folder ä"
    prepare(photo_folder, out, prepare_params(max_class_ratio=10.0))
    manifest = pd.read_parquet(out / "manifest.parquet").set_index("source")
    quarantined = manifest[manifest["state"] == "quarantined"]["reason"].to_dict()
    assert quarantined == {
        "china/bomb.png": "20000 x 20000 pixels, at most 67108864 are decoded",
        "china/text.png": "text, no image",
        "china/out.png": "a link out of the folder: copy what it points to (cp -rL)",
        "china/empty.png": "empty file",
        "china/nan.tiff": "holds NaN or infinity",
    }
    assert manifest.loc["china/tiny.png", "state"] == "accepted"
    assert manifest.loc["größe, 大 und klein/ein Bild № 3.png", "class_name"] == "größe, 大 und klein"
    prepared = Dataset.open(out)
    assert prepared.info.class_names == ("china", "flower", "größe, 大 und klein")
    assert len(prepared.split("train")) + len(prepared.split("held_out")) == 32 + 1 + 8


def test_a_class_without_images_fails_the_gate_and_leaves_no_data_set(
    tmp_path: Path, prepare_params: Callable[..., PrepareParams]
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    np.savez(raw / "set.npz", images=images, labels=np.arange(40) % 2)
    params = prepare_params(source="arrays", class_names=("cat", "dog", "unicorn"))
    validation, dataset = prepare(raw, tmp_path / "out", params)
    assert validation.findings() == [
        (
            "classes_without_training_images: found 1, wanted 0\n  classes: unicorn (0)\n"
            "  add images of these classes, or remove their folders or names (prepare.class_names)"
        )
    ]
    assert dataset is None
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert (tmp_path / "out" / "report.html").exists()
