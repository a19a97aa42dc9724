from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.diffusion.guidance import GuidedDenoiser, guided
from pipeline.errors import FoundryError
from tests.fakes import elementwise_denoiser

NULL = 10


@dataclass
class CountingDenoiser:
    """Counts the rows of its calls."""

    rows: list[int] = field(default_factory=list)

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        self.rows.append(len(x))
        return elementwise_denoiser(x, t, labels)


def some_rows(num: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num)
    x = torch.randn(num, 1, 3, 5, generator=generator)
    return x, torch.randint(0, 1000, (num,), generator=generator), torch.randint(0, NULL, (num,), generator=generator)


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.5, 7.0]), min_size=1, max_size=8))
def test_rows_are_guided_by_their_own_scales_in_one_call_with_two_rows_for_each_guided_one(scales: list[float]) -> None:
    x, t, labels = some_rows(len(scales))
    denoiser = CountingDenoiser()
    denoised = guided(denoiser, x, t, labels, torch.tensor(scales), NULL)
    assert denoiser.rows == [len(scales) + sum(scale != 1 for scale in scales)]
    conditional = elementwise_denoiser(x, t, labels)
    unconditional = elementwise_denoiser(x, t, torch.full_like(labels, NULL))
    for row, scale in enumerate(scales):
        wanted = unconditional[row] + scale * (conditional[row] - unconditional[row])
        assert torch.equal(denoised[row], conditional[row] if scale == 1 else wanted)


def test_scale_zero_is_the_unconditional_image() -> None:
    x, t, labels = some_rows(3)
    denoised = guided(elementwise_denoiser, x, t, labels, torch.zeros(3), NULL)
    torch.testing.assert_close(denoised, elementwise_denoiser(x, t, torch.full_like(labels, NULL)))


def test_a_guided_denoiser_guides_every_row_with_its_scale() -> None:
    x, t, labels = some_rows(4)
    denoiser = GuidedDenoiser(denoiser=elementwise_denoiser, scale=3.0, null_label=NULL)
    wanted = guided(elementwise_denoiser, x, t, labels, torch.full((4,), 3.0), NULL)
    assert torch.equal(denoiser(x, t, labels), wanted)


def test_guidance_finds_its_rows_without_waiting_for_the_device_of_the_images() -> None:
    # A meta tensor has a shape and no content: whatever would depend on its numbers raises.
    x, t, labels = (each.to("meta") for each in some_rows(3))
    assert guided(elementwise_denoiser, x, t, labels, torch.tensor([1.0, 2.0, 3.0]), NULL).shape == x.shape
    denoiser = GuidedDenoiser(denoiser=elementwise_denoiser, scale=3.0, null_label=NULL)
    assert denoiser(x, t, labels).shape == x.shape
    with pytest.raises((NotImplementedError, RuntimeError)):
        guided(elementwise_denoiser, x, t, labels, torch.ones(3, device="meta"), NULL)


def test_guidance_of_one_gaussian_class_moves_the_image_away_from_the_others() -> None:
    def denoiser(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        # The class at +1, the average of all at 0
        del t
        assert labels is not None
        return torch.where(labels[:, None, None, None] == NULL, 0.0, torch.ones_like(x))

    x, t, labels = some_rows(2)
    assert (
        guided(denoiser, x, t, labels, torch.tensor([2.0, 1.0]), NULL)[:, 0, 0, 0] == torch.tensor([2.0, 1.0])
    ).all()


def test_guidance_without_classes_is_refused() -> None:
    x, t, _ = some_rows(2)
    with pytest.raises(FoundryError, match=r"guidance_scale: should be 1 for images without a class \(got 3.0\)"):
        GuidedDenoiser(denoiser=elementwise_denoiser, scale=3.0, null_label=NULL)(x, t, None)
