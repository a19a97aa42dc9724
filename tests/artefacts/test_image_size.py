import pytest

from pipeline.artefacts.image_size import height_and_width, image_size


@pytest.mark.parametrize(("written", "size"), [(28, 28), ([48, 64], (48, 64)), ((48, 64), (48, 64)), ([9, 9], 9)])
def test_a_size_is_one_number_for_squares_and_else_height_and_width(written: object, size: object) -> None:
    assert image_size(written) == size
    assert image_size(height_and_width(image_size(written))) == size


@pytest.mark.parametrize("written", [0, -1, 2.0, True, None, "8", [8], [8, 8, 3], [8, 0]])
def test_anything_else_is_no_size(written: object) -> None:
    with pytest.raises(ValueError, match="wanted a number of pixels or"):
        image_size(written)
