import pytest
import torch

from pipeline.diffusion.images import height_and_width, image_size, to_bytes, to_unit_range


def test_every_byte_survives_the_way_there_and_back() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(to_unit_range(every)), every)


def test_the_ends_are_minus_one_and_one() -> None:
    assert to_unit_range(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def test_what_is_out_of_range_is_clamped() -> None:
    assert to_bytes(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]


@pytest.mark.parametrize(("written", "size"), [(28, 28), ([48, 64], (48, 64)), ((48, 64), (48, 64)), ([9, 9], 9)])
def test_a_size_is_one_number_for_squares_and_else_height_and_width(written: object, size: object) -> None:
    assert image_size(written) == size
    assert image_size(height_and_width(image_size(written))) == size


@pytest.mark.parametrize("written", [0, -1, 2.0, True, None, "8", [8], [8, 8, 3], [8, 0]])
def test_anything_else_is_no_size(written: object) -> None:
    with pytest.raises(ValueError, match="wanted a number of pixels or"):
        image_size(written)
