import numpy as np

from benchmarks.copies import TILE, changes, measure, report, sets


def test_exact_mirrored_and_recoloured_copies_are_found_and_shifted_ones_by_shifts() -> None:
    digits = sets()["digits, 8x8 grey"][:600]
    found = {row["copies"]: row for row in measure("digits", digits, 20)}
    assert (found["exact"]["found"], found["exact"]["area"]) == (1.0, 1.0)
    assert found["mirrored"]["found"] == found["recoloured"]["found"] == 1.0
    assert found["shifted by a pixel"]["found_shifted"] > found["shifted by a pixel"]["found"]
    assert report([found["exact"]]).splitlines()[2].startswith("| digits | exact |")


def test_the_tiles_are_colour_images_that_do_not_overlap() -> None:
    tiles = sets()["tiles, 40x40 colour"]
    assert tiles.shape == (2 * 10 * 16, TILE, TILE, 3)
    assert len(np.unique(tiles.reshape(len(tiles), -1), axis=0)) == len(tiles)


def test_a_change_keeps_the_shape_and_only_the_exact_copy_is_equal() -> None:
    images = sets()["tiles, 40x40 colour"][:3]
    for kind, change in changes(np.random.default_rng(0)).items():
        changed = change(images)
        assert (changed.shape, changed.dtype) == (images.shape, images.dtype)
        assert np.array_equal(changed, images) == (kind == "exact")
