import torch

from pipeline.diffusion.images import to_bytes, to_unit_range


def test_every_byte_survives_the_way_there_and_back() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(to_unit_range(every)), every)


def test_the_ends_are_minus_one_and_one() -> None:
    assert to_unit_range(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def test_what_is_out_of_range_is_clamped() -> None:
    assert to_bytes(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]
