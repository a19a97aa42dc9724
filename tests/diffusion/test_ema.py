import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.diffusion.ema import Ema, Profile, gamma_of_width, inner_products, reconstruct


@given(st.floats(0.005, 0.28))
def test_gamma_gives_the_profile_its_relative_width(width: float) -> None:
    gamma = gamma_of_width(width)
    # Mean and variance of the density (gamma + 1) s^gamma on [0, 1].
    mean, square = (gamma + 1) / (gamma + 2), (gamma + 1) / (gamma + 3)
    assert math.sqrt(square - mean**2) == pytest.approx(width, rel=1e-6)


def test_a_constant_trajectory_stays_constant() -> None:
    ema = Ema({"w": torch.full((3,), 5.0)}, [0.05, 0.1])
    for _ in range(50):
        ema.update({"w": torch.full((3,), 5.0)})
    assert all(torch.equal(track["w"], torch.full((3,), 5.0)) for track in ema.tracks)


def test_the_first_update_forgets_where_the_weights_began() -> None:
    ema = Ema({"w": torch.tensor([100.0])}, [0.1])
    ema.update({"w": torch.tensor([1.0])})
    assert ema.tracks[0]["w"].item() == 1.0


@pytest.mark.parametrize("width", [0.05, 0.1, 0.25])
def test_a_linear_trajectory_averages_to_the_mean_of_the_profile(width: float) -> None:
    steps, gamma = 4000, gamma_of_width(width)
    ema = Ema({"w": torch.zeros(1, dtype=torch.float64)}, [width])
    for step in range(1, steps + 1):
        ema.update({"w": torch.tensor([step / steps], dtype=torch.float64)})
    assert ema.tracks[0]["w"].item() == pytest.approx((gamma + 1) / (gamma + 2), abs=2e-3)


def test_inner_products_agree_with_quadrature() -> None:
    profiles = [Profile(50, 3.0), Profile(100, 7.0), Profile(80, 16.97)]
    s = np.linspace(0, 100, 400_001)
    densities = [np.where(s <= p.end, (p.gamma + 1) * s**p.gamma / p.end ** (p.gamma + 1), 0.0) for p in profiles]
    wanted = [[np.trapezoid(a * b, s) for b in densities] for a in densities]
    np.testing.assert_allclose(inner_products(profiles, profiles), wanted, rtol=1e-3)


def _trajectory(step: int, steps: int) -> torch.Tensor:
    s = step / steps
    return torch.tensor([s, s**2, math.sin(6 * s), math.exp(-5 * s)], dtype=torch.float64)


def _average(width: float, steps: int) -> torch.Tensor:
    ema = Ema({"w": _trajectory(0, steps)}, [width])
    for step in range(1, steps + 1):
        ema.update({"w": _trajectory(step, steps)})
    return ema.tracks[0]["w"]


def _snapshots(widths: list[float], steps: int, count: int) -> list[tuple[Profile, dict[str, torch.Tensor]]]:
    ema, found = Ema({"w": _trajectory(0, steps)}, widths), []
    for step in range(1, steps + 1):
        ema.update({"w": _trajectory(step, steps)})
        if step % (steps // count) == 0:
            found += [
                (Profile(step, gamma), {"w": track["w"].clone()})
                for gamma, track in zip(ema.gammas, ema.tracks, strict=True)
            ]
    return found


def test_reconstruction_returns_a_tracked_average() -> None:
    steps = 2000
    rebuilt = reconstruct(_snapshots([0.05, 0.1], steps, 8), Profile(steps, gamma_of_width(0.1)))
    torch.testing.assert_close(rebuilt["w"].double(), _average(0.1, steps), atol=1e-5, rtol=0)


@pytest.mark.parametrize("width", [0.07, 0.15])
def test_reconstruction_of_another_width_improves_with_more_snapshots(width: float) -> None:
    steps, wanted = 2000, Profile(2000, gamma_of_width(width))
    errors = [
        float((reconstruct(_snapshots([0.05, 0.1], steps, count), wanted)["w"] - _average(width, steps)).abs().max())
        for count in (1, 4, 16)
    ]
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 1e-3
