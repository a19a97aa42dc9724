import pytest
import torch

from pipeline.diffusion.loss import visible_error


def _one(denoised: float, x0: float) -> float:
    image = torch.full((1, 1, 1, 1), denoised, dtype=torch.float64)
    return float(visible_error(image, torch.full_like(image, x0)))


@pytest.mark.parametrize(("denoised", "x0", "error"), [
    (-3.0, -1.0, 0.0),
    (3.0, 1.0, 0.0),
    (-0.5, -1.0, 0.25),
    (-3.0, 1.0, 16.0),
    (-2.0, -0.9, 1.21),
    (0.2, 0.2, 0.0),
])  # fmt: skip
def test_beyond_the_edge_a_pixel_at_the_edge_is_right_and_no_other(denoised: float, x0: float, error: float) -> None:
    assert _one(denoised, x0) == pytest.approx(error)


@pytest.mark.parametrize("black", [0.0, 0.3, 0.9, 1.0])
def test_the_best_estimate_clipped_is_the_mean_of_all_possible_pixels(black: float) -> None:
    # Black with this probability, else one of three greys.
    values = torch.tensor([-1.0, -0.8, 0.1, 1.0], dtype=torch.float64)
    shares = torch.tensor([black, *[(1 - black) / 3] * 3], dtype=torch.float64)
    guesses = torch.linspace(-3, 3, 60_001, dtype=torch.float64)
    pairs = visible_error(
        guesses.repeat_interleave(4)[:, None, None, None], values.repeat(len(guesses))[:, None, None, None]
    )
    risk = (pairs.reshape(-1, 4) * shares).sum(dim=1)
    best = float(guesses[risk.argmin()])
    assert max(-1.0, min(1.0, best)) == pytest.approx(float((values * shares).sum()), abs=1e-4)


def test_the_gradient_draws_a_grey_pixel_back_from_beyond_the_edge() -> None:
    denoised = torch.tensor([-2.0], requires_grad=True)
    visible_error(denoised[:, None, None, None], torch.full((1, 1, 1, 1), 0.5)).sum().backward()
    assert denoised.grad is not None
    assert denoised.grad.item() == pytest.approx(-5)
