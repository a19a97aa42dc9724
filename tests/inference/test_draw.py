import numpy as np
import pytest

from pipeline.artefacts.model import Model
from pipeline.diffusion.seeds import image_seed
from pipeline.inference.draw import BATCH_SIZE, draw
from pipeline.inference.grids import GAP_GREY, LARGEST_TILE, grid_image, sheet_image

SEEDS = [image_seed(1, i) for i in range(5)]
LABELS = [0, 1, 0, 1, 2]


def test_an_image_is_the_same_alone_and_among_any_number_of_others(model: Model) -> None:
    together = draw(model, SEEDS, LABELS)
    alone = np.concatenate([draw(model, [seed], [label]) for seed, label in zip(SEEDS, LABELS, strict=True)])
    assert (alone == together).all()
    many = [image_seed(2, i) for i in range(BATCH_SIZE)]
    assert (draw(model, many + SEEDS, [0] * BATCH_SIZE + LABELS)[BATCH_SIZE:] == together).all()
    assert together.shape == (5, 8, 8, 3)
    assert together.dtype == np.uint8
    assert together.std() > 10


def test_what_is_not_said_is_as_the_model_has_it(model: Model) -> None:
    assert (draw(model, SEEDS, LABELS) == draw(model, SEEDS, LABELS, sampler="ddim", num_steps=3)).all()
    assert (draw(model, SEEDS, LABELS) != draw(model, SEEDS, LABELS, num_steps=4)).any()
    assert (draw(model, SEEDS, LABELS) != draw(model, SEEDS, LABELS, guidance_scale=5.0)).any()
    assert (draw(model, SEEDS, LABELS) != draw(model, SEEDS, LABELS, eta=1.0)).any()


def test_the_bar_counts_images(
    model: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.progress.LOG_INTERVAL_SEC", 0.0)
    draw(model, SEEDS, LABELS, progress=True)
    assert "5/5" in capsys.readouterr().err
    draw(model, SEEDS, LABELS)
    assert capsys.readouterr().err == ""


def _flat(count: int, size: int, channels: int) -> np.ndarray:
    return (
        (np.arange(count, dtype=np.uint8) + 1)[:, None, None, None].repeat(size, 1).repeat(size, 2).repeat(channels, 3)
    )


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_grid_has_the_images_in_rows(channels: int, mode: str) -> None:
    picture = grid_image(_flat(5, 4, channels), columns=3)
    assert (picture.size, picture.mode) == ((14, 9), mode)
    found = np.asarray(picture).reshape(9, 14, channels)[..., 0]
    assert found[0, [0, 5, 10]].tolist() == [1, 2, 3]
    assert found[5, [0, 5, 10]].tolist() == [4, 5, GAP_GREY]
    assert (found[4] == GAP_GREY).all()


@pytest.mark.parametrize(("size", "tile"), [(8, 56), (28, 56), (64, 64), (300, LARGEST_TILE)])
def test_a_sheet_can_be_seen_and_is_not_huge(size: int, tile: int) -> None:
    assert sheet_image(_flat(4, size, 1), columns=2).size == (2 * tile + 1, 2 * tile + 1)


def test_names_stand_on_the_left_of_their_rows() -> None:
    sheet = np.asarray(sheet_image(_flat(2, 28, 1), columns=1, names=["a", "a long name"]))
    margin = sheet.shape[1] - 56
    first, second = ((part[:, :margin] < 128).sum() for part in (sheet[:56], sheet[57:]))
    assert 0 < first < second
