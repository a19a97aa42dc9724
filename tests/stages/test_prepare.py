from __future__ import annotations

import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from pipeline import cli
from pipeline.artefacts.dataset import Dataset
from pipeline.errors import CheckFailedError, FoundryError
from pipeline.ingestion.validation import ValidationReport
from pipeline.params import PrepareParams
from pipeline.prepare import prepare, require_success
from pipeline.tracking import store

Make = Callable[..., PrepareParams]
Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]


def manifest_of(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "manifest.parquet")


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_idx_pixels_and_labels_are_copied_unchanged(tmp_path: Path, digits: Digits, prepare_params: Make) -> None:
    images, labels = digits
    (tmp_path / "raw").mkdir()
    for prefix, chosen in (("train", slice(200)), ("t10k", slice(200, 250))):
        header = struct.pack(">4I", 0x803, len(images[chosen]), 8, 8)
        (tmp_path / f"raw/{prefix}-images-idx3-ubyte").write_bytes(header + images[chosen].tobytes())
        header = struct.pack(">2I", 0x801, len(images[chosen]))
        (tmp_path / f"raw/{prefix}-labels-idx1-ubyte").write_bytes(header + labels[chosen].astype(np.uint8).tobytes())
    names = tuple(f"digit {number}" for number in range(10))
    prepare(tmp_path / "raw", tmp_path / "out", prepare_params(source="idx", channels=1, class_names=names))
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.info.class_names == names
    for split, chosen in (("train", slice(200)), ("held_out", slice(200, 250))):
        np.testing.assert_array_equal(dataset.split(split).images(slice(None))[:, :, :, 0], images[chosen])
        np.testing.assert_array_equal(dataset.split(split).labels, labels[chosen])


def test_the_image_at_a_row_s_index_has_the_label_and_the_statistics_of_that_row(
    photo_folder: Path, prepare_params: Make
) -> None:
    out = photo_folder.parent / "out"
    prepare(photo_folder, out, prepare_params(image_size=16))
    dataset, table = Dataset.open(out), manifest_of(out)
    assert dataset.info.class_names == ("china", "flower")
    assert (table["split"] == "held_out").sum() == len(dataset.split("held_out")) > 0
    for split in ("train", "held_out"):
        rows = table[table["split"] == split]
        assert rows["index"].tolist() == list(range(len(dataset.split(split))))
        images = dataset.split(split).images(rows["index"].to_numpy(dtype=np.int64))
        np.testing.assert_allclose(images.mean((1, 2, 3)), rows["mean"], rtol=1e-12)
        np.testing.assert_allclose(np.sqrt(images.var((1, 2)).mean(1)), rows["std"], rtol=1e-12)
        np.testing.assert_array_equal(dataset.split(split).labels, rows["label"])
    for source, width, height in zip(table["source"], table["width"], table["height"], strict=True):
        with Image.open(photo_folder / source) as image:
            assert image.size == (width, height)


def test_an_archive_of_a_folder_is_prepared_like_the_folder(photo_folder: Path, prepare_params: Make) -> None:
    base = photo_folder.parent
    prepare(photo_folder, base / "folder", prepare_params())
    wanted = Dataset.open(base / "folder").info
    paths = sorted(path for path in photo_folder.rglob("*") if path.is_file())
    for kind in ("zip", "tar", "tar.gz"):
        raw = base / f"raw {kind}"
        raw.mkdir()
        # Backwards, because the order of an archive's members must not matter.
        if kind == "zip":
            with zipfile.ZipFile(raw / "a.zip", "w") as archive:
                for path in reversed(paths):
                    archive.write(path, path.relative_to(photo_folder))
        else:
            with tarfile.open(raw / f"a.{kind}", "w:gz" if kind == "tar.gz" else "w") as tar:
                for path in reversed(paths):
                    tar.add(path, path.relative_to(photo_folder))
        prepare(raw, base / kind, prepare_params(source="archive"))
        assert Dataset.open(base / kind).info == wanted


def test_the_same_images_make_the_same_bytes(photo_folder: Path, prepare_params: Make) -> None:
    (photo_folder / "china" / "broken.png").write_bytes(b"text")
    shutil.copy(photo_folder / "flower/01.png", photo_folder / "flower/copy.png")
    again = shutil.copytree(photo_folder, photo_folder.parent / "elsewhere")
    outs = [photo_folder.parent / name for name in ("one", "two")]
    for raw, out in zip((photo_folder, again), outs, strict=True):
        prepare(raw, out, prepare_params())
    assert files(outs[0]) == files(outs[1])
    assert str(photo_folder.parent) not in (outs[0] / "report.html").read_text()


def test_running_again_removes_the_outputs_of_the_earlier_run(photo_folder: Path, prepare_params: Make) -> None:
    out = photo_folder.parent / "out"
    prepare(photo_folder, out, prepare_params())
    prepare(photo_folder, out, prepare_params(labelled=False))
    assert sorted(files(out)) == [
        "dataset.json",
        "held_out/images-00000.npy",
        "manifest.parquet",
        "report.html",
        "train/images-00000.npy",
        "validation.json",
    ]
    assert Dataset.open(out).info.class_names is None


def test_adding_images_to_small_classes_moves_few_to_another_split(photo_folder: Path, prepare_params: Make) -> None:
    out = photo_folder.parent / "out"
    prepare(photo_folder, out, prepare_params())
    before = manifest_of(out).set_index("source")["split"]
    for path in list(photo_folder.rglob("*.png")):
        with Image.open(path) as image:
            image.rotate(90).save(path.with_name(f"turned {path.name}"))
    prepare(photo_folder, out, prepare_params())
    after = manifest_of(out).set_index("source")["split"]
    assert len(after) == 1.5 * len(before)
    assert (after[before.index] == before).mean() > 0.9


def test_duplicates_are_reported_and_share_a_split(photo_folder: Path, prepare_params: Make) -> None:
    out = photo_folder.parent / "out"
    for number in range(1, 16, 2):
        shutil.copy(photo_folder / f"china/{number:02}.png", photo_folder / f"flower/copy {number}.png")
    prepare(photo_folder, out, prepare_params())
    table = manifest_of(out).set_index("source")
    copies = table[table["duplicate_of"].notna()]
    assert set(copies.index) == {f"flower/copy {number}.png" for number in range(1, 16, 2)}
    assert (table.loc[copies["duplicate_of"], "split"].to_numpy() == copies["split"].to_numpy()).all()
    assert ValidationReport.read(out / "validation.json").counts["duplicates"] == 8


def test_too_many_duplicates_fail_a_check(photo_folder: Path, prepare_params: Make) -> None:
    shutil.copy(photo_folder / "china/01.png", photo_folder / "china/copy.png")
    validation, dataset = prepare(photo_folder, photo_folder.parent / "out", prepare_params(max_duplicate_share=0.03))
    assert validation.findings() == [
        (
            "duplicate_share: found 0.030303, wanted at most 0.03\n  files: china/copy.png\n"
            "  leave files out (foundry data exclude), or raise prepare.max_duplicate_share"
        )
    ]
    assert dataset is None


def break_some(folder: Path) -> dict[str, str]:
    """Add broken files and return the reasons by source."""
    (folder / "china/text.png").write_text("hello")
    (folder / "china/empty.jpg").write_bytes(b"")
    content = (folder / "flower/00.jpg").read_bytes()
    (folder / "flower/half – ½.jpg").write_bytes(content[: len(content) // 2])
    (folder / "flower/link.png").symlink_to("/etc/hostname")
    return {
        "china/text.png": "text, no image",
        "china/empty.jpg": "empty file",
        "flower/half – ½.jpg": "damaged: ",
        "flower/link.png": "a link out of the folder: copy what it points to (cp -rL)",
    }


def test_broken_images_are_listed_with_their_reasons_and_the_rest_is_prepared(
    photo_folder: Path, prepare_params: Make
) -> None:
    reasons, out = break_some(photo_folder), photo_folder.parent / "out"
    prepare(photo_folder, out, prepare_params())
    table = manifest_of(out)
    broken = table[table["state"] == "quarantined"].set_index("source")
    assert set(broken.index) == set(reasons)
    assert all(broken.loc[source, "reason"].startswith(reason) for source, reason in reasons.items())
    assert broken[["split", "index", "pixels_sha256", "mean", "width"]].isna().all(axis=None)
    info = Dataset.open(out).info
    assert info.num_train + info.num_held_out == 32
    for source in reasons:
        assert source in (out / "report.html").read_text()


def test_too_many_broken_images_fail_a_check_and_only_the_reports_are_written(
    photo_folder: Path, prepare_params: Make
) -> None:
    out = photo_folder.parent / "out"
    prepare(photo_folder, out, prepare_params())
    break_some(photo_folder)
    validation, _ = prepare(photo_folder, out, prepare_params(max_broken_share=0.1))
    with pytest.raises(CheckFailedError, match=r"broken_share: found 0\.111111, wanted at most 0\.1"):
        require_success(validation, out)
    # No dataset, not even that of the earlier run.
    assert sorted(files(out)) == ["manifest.parquet", "report.html", "validation.json"]
    assert (manifest_of(out)["state"] == "quarantined").sum() == 4
    assert ValidationReport.read(out / "validation.json") == validation
    with pytest.raises(FoundryError, match="dataset.json: not found"):
        Dataset.open(out)


def test_a_folder_without_any_readable_image_fails_and_its_report_lists_the_reasons(
    tmp_path: Path, prepare_params: Make
) -> None:
    (tmp_path / "raw/cat").mkdir(parents=True)
    (tmp_path / "raw/cat/1.png").write_bytes(b"text")
    validation, _ = prepare(tmp_path / "raw", tmp_path / "out", prepare_params(max_broken_share=1.0))
    assert validation.findings()[0].startswith("num_images: found 0, wanted at least 2\n")
    assert "text, no image" in (tmp_path / "out/report.html").read_text()


def test_images_that_are_all_equal_cannot_be_split(tmp_path: Path, prepare_params: Make) -> None:
    (tmp_path / "raw/cat").mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (9, 9), "red").save(tmp_path / f"raw/cat/{number}.png")
    everything = prepare_params(max_duplicate_share=1.0, max_blank_share=1.0)
    validation, _ = prepare(tmp_path / "raw", tmp_path / "out", everything)
    assert any(each.startswith("num_splits: found 1, wanted 2: train and held_out\n") for each in validation.findings())


@pytest.mark.parametrize("side", [8, 100])
def test_a_fifth_of_noise_among_the_images_fails_a_check(
    photo_folder: Path, tmp_path: Path, prepare_params: Make, side: int
) -> None:
    for number in range(8):
        noise = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(noise).save(photo_folder / f"china/noise-{number}.png")
    validation, _ = prepare(photo_folder, tmp_path / "out", prepare_params(max_noise_share=0.01))
    assert validation.findings() == ["noise_share: found 0.2, wanted at most 0.01"]


def test_bad_exif_and_other_warnings_break_no_image(photo_folder: Path, prepare_params: Make) -> None:
    """Pillow warns about such files, and pytest turns warnings into errors."""
    picture = Image.open(photo_folder / "china/01.png")
    picture.save(photo_folder / "china/exif.png", exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff")
    palette = picture.quantize(8)
    palette.save(photo_folder / "china/palette.png", transparency=bytes([0, 255, 9]))
    prepare(photo_folder, photo_folder.parent / "out", prepare_params(max_broken_share=0.0))


def test_a_missing_source_leaves_no_outputs(tmp_path: Path, prepare_params: Make) -> None:
    with pytest.raises(FoundryError, match="raw: not a folder"):
        prepare(tmp_path / "raw", tmp_path / "out", prepare_params())
    assert files(tmp_path / "out") == {}


@pytest.mark.usefixtures("tracking_store")
def test_the_command_exits_with_3_and_logs_the_checks_when_one_fails(
    workspace: Path, root: Path, photo_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = yaml.safe_load((root / "tests" / "params.yaml").read_text())
    params["prepare"] |= {"source": "images", "class_names": None, "min_num_images": 33}
    (workspace / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(SystemExit) as stop:
        cli.main(["prepare", "--raw", str(photo_folder), "--out", "data/prepared"])
    assert stop.value.code == 3
    message = capsys.readouterr().err
    assert "data/prepared/validation.json: num_images: found 32, wanted at least 33" in message
    assert "Traceback" not in message
    client = store.connect()
    (run,) = client.search_runs([store.experiment_id(client)], "attributes.run_name = 'prepare'")
    assert run.data.metrics["prepare/num_images"] == 32
    assert run.data.metrics["prepare/found"] == 32


@pytest.mark.usefixtures("tracking_store")
def test_a_set_that_is_too_small_for_figures_is_refused_at_once(
    workspace: Path, root: Path, photo_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = yaml.safe_load((root / "tests" / "params.yaml").read_text())
    params["prepare"] |= {"source": "images", "class_names": None, "min_num_images": 32}
    (workspace / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(SystemExit) as stop:
        cli.main(["prepare", "--raw", str(photo_folder), "--out", "data/prepared"])
    assert stop.value.code == 2
    assert "held-out images, wanted at least 50 and 20 (stage features): add images" in capsys.readouterr().err


@pytest.mark.usefixtures("tracking_store")
@pytest.mark.parametrize("words", [["--raw", "none"], ["--raw", "raw", "--excluded", "binary.txt"]])
def test_what_the_last_run_has_made_stays_where_there_is_nothing_to_make_it_anew_from(
    words: list[str], workspace: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(root / "tests" / "params.yaml", workspace)
    (workspace / "binary.txt").write_bytes(b"\xff")
    before = workspace / "data/prepared/dataset.json"
    before.parent.mkdir(parents=True)
    before.write_text("{}")
    with pytest.raises(SystemExit) as stop:
        cli.main(["prepare", *words, "--out", "data/prepared"])
    assert stop.value.code == 2
    assert before.read_text() == "{}"
    assert capsys.readouterr().err.count("\n") == 1
