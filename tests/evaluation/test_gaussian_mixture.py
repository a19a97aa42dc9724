import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pipeline.evaluation.gaussian_mixture import draw_baseline, fit, principal_components
from tests.small_sets import split_of

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]


def test_one_gaussian_has_the_moments_of_the_points() -> None:
    random = np.random.default_rng(0)
    points = torch.from_numpy(random.standard_normal((500, 3)) @ random.standard_normal((3, 3)) + 5).float()
    drawn = fit(points, 1, random).draw(40_000, random)
    assert torch.allclose(drawn.mean(dim=0), points.double().mean(dim=0), atol=0.05)
    assert torch.allclose(drawn.T.cov(), points.double().T.cov(correction=0), atol=0.15)


def test_clusters_far_apart_are_found_with_their_shares() -> None:
    random = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    points = np.repeat(centres, [100, 200, 300], axis=0) + random.standard_normal((600, 2))
    # More components than clusters: k-means from random points may start two in one.
    drawn = fit(torch.from_numpy(points).float(), 8, random).draw(6000, random).numpy()
    nearest = np.linalg.norm(drawn[:, None] - centres, axis=2)
    assert (nearest.min(axis=1) < 6).all()
    shares = np.bincount(nearest.argmin(axis=1), minlength=3) / 6000
    assert shares == pytest.approx([1 / 6, 2 / 6, 3 / 6], abs=0.03)


def test_the_clusters_do_not_depend_on_the_number_of_threads() -> None:
    points = torch.randn(9000, 20, generator=torch.Generator().manual_seed(0))
    mixtures = []
    for threads in (1, 2, 3):
        with threadpool_limits(threads):
            mixtures.append(fit(points, 12, np.random.default_rng(0)))
    assert all(torch.equal(mixture.weights, mixtures[0].weights) for mixture in mixtures)


def test_components_are_the_leading_eigenvectors(digits: Digits) -> None:
    components = principal_components(digits[0][..., None], seed=0)
    images = digits[0][..., None]
    assert torch.allclose(components.directions.T @ components.directions, torch.eye(64), atol=1e-4)
    assert (components.images(components.points(images), (8, 8, 1)) == images).all()


def test_drawn_images_have_the_requested_class(digits: Digits) -> None:
    images, labels = digits
    asked = np.arange(200) % 10
    drawn = draw_baseline(split_of(images[..., None], labels), asked, 200, num_components=40, seed=1)
    means = np.stack([images[labels == label].mean(axis=0) for label in range(10)])
    distance = np.abs(drawn[:, None, ..., 0] - means).sum(axis=(2, 3))
    assert (distance.argmin(axis=1) == asked).mean() > 0.8


@pytest.mark.parametrize("labelled", [True, False])
def test_the_images_depend_on_the_seed_alone(digits: Digits, labelled: bool) -> None:  # noqa: FBT001  # a parameter
    images, labels = digits
    split = split_of(images[:300, ..., None], labels[:300] if labelled else None)
    asked = np.arange(30) % 10 if labelled else None
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again, other = (draw_baseline(split, asked, 30, num_components=12, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert (first == again).all()
    assert (first != other).any()
    assert first.shape == (30, 8, 8, 1)


def test_a_class_of_one_image_is_drawn_as_that_image() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3)).astype(np.uint8)
    drawn = draw_baseline(split_of(images, np.arange(5)), np.array([3, 1]), 2, num_components=300, seed=0)
    # Five images lie in four dimensions, which five principal components hold.
    assert np.abs(drawn.astype(int) - images[[3, 1]]).max() <= 1
