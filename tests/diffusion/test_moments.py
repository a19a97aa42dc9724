import numpy as np
import pytest
import torch
from scipy.fft import dctn
from sklearn.datasets import load_digits

from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.gaussian import gaussian_bits_per_dim, linear_denoiser_mse
from pipeline.diffusion.moments import MAX_FULL_DIMENSIONS, cosine_basis, image_moments
from pipeline.diffusion.noise import NoiseSchedule


def digits(num_images: int = 1797) -> torch.Tensor:
    """Real 8x8 images, `uint8 [n, 8, 8, 1]`."""
    return torch.from_numpy((load_digits().images[:num_images] * 15).astype(np.uint8))[..., None]


def large(num_images: int = 200) -> torch.Tensor:
    """Digits of 40x40 in three colours: too large for the whole covariance."""
    wide = digits(num_images).repeat_interleave(5, 1).repeat_interleave(5, 2)
    return torch.cat([wide, wide // 2, 255 - wide // 3], dim=3)


def flat(images: torch.Tensor) -> np.ndarray:
    return (images.permute(0, 3, 1, 2).flatten(1).double() * 2 / 255 - 1).numpy()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("width", [8, 5])
def test_moments_of_real_images_are_those_of_numpy(width: int, channels: int) -> None:
    images = torch.cat([digits(), 255 - digits().flip(1), digits().flip(0)], dim=3)[:, :, :width, :channels]
    moments = image_moments(images.split(500))
    x = flat(images)
    np.testing.assert_allclose(moments.mean_image.flatten(), x.mean(0), atol=1e-12)
    eigenvalues = np.linalg.eigvalsh(np.cov(x, rowvar=False, bias=True))[::-1]
    np.testing.assert_allclose(moments.eigenvalues, eigenvalues.clip(0), atol=1e-12)
    assert moments.sigma_data == pytest.approx(x.std(), rel=1e-12)
    assert moments.mean_x0_squared == pytest.approx((x**2).mean(), rel=1e-12)


def test_eigenvectors_are_the_axes_of_the_covariance() -> None:
    moments = image_moments([digits()])
    U = moments.eigenvectors
    torch.testing.assert_close(U.T @ U, torch.eye(64, dtype=torch.float64))
    covariance = torch.from_numpy(np.cov(flat(digits()), rowvar=False, bias=True))
    torch.testing.assert_close(U * moments.eigenvalues @ U.T, covariance, rtol=0, atol=1e-12)


def test_moments_do_not_depend_on_how_images_come_in_batches_nor_on_their_order() -> None:
    images = digits()
    one, other = image_moments([images]), image_moments(images.flip(0).split(100))
    assert torch.equal(one.mean_image, other.mean_image)
    assert torch.equal(one.eigenvalues, other.eigenvalues)


def test_one_image_alone_has_no_variance() -> None:
    moments = image_moments([digits(1)])
    assert moments.eigenvalues.max() < 1e-12
    np.testing.assert_allclose(moments.mean_image.flatten(), flat(digits(1))[0], atol=1e-12)


def test_large_images_have_the_variances_of_their_cosine_transform() -> None:
    grey = torch.from_numpy(np.kron(digits(150)[..., 0], np.ones((10, 9), np.uint8)))[..., None]
    assert grey[0].numel() > MAX_FULL_DIMENSIONS
    wanted = np.sort(dctn(flat(grey).reshape(-1, 80, 72), axes=(1, 2), norm="ortho").var(0).flatten())[::-1]
    np.testing.assert_allclose(image_moments([grey]).eigenvalues, wanted, atol=1e-9)


def test_large_colour_images_keep_mean_and_total_variance_and_get_orthonormal_axes() -> None:
    images = large()
    moments, x = image_moments(images.split(70)), flat(images)
    np.testing.assert_allclose(moments.mean_image.flatten(), x.mean(0), atol=1e-10)
    assert moments.sigma_data == pytest.approx(x.std(), rel=1e-10)
    assert moments.mean_x0_squared == pytest.approx((x**2).mean(), rel=1e-10)
    U = moments.eigenvectors
    torch.testing.assert_close(U.T @ U, torch.eye(U.shape[1], dtype=torch.float64))
    along = (torch.from_numpy(x) @ U).var(0, correction=0)
    torch.testing.assert_close(along, moments.eigenvalues[: U.shape[1]])
    assert (moments.eigenvalues.diff() <= 0).all()


def test_the_spectrum_of_large_images_bounds_error_and_code_length_from_above() -> None:
    images, schedule = large(), NoiseSchedule(cosine_betas(50))
    bound = image_moments([images]).eigenvalues
    # The eigenvalues of a few images are those of their Gram matrix, and zeros.
    x = torch.from_numpy(flat(images))
    gram = torch.linalg.eigvalsh((x - x.mean(0)) @ (x - x.mean(0)).T / len(x)).clamp(min=0)
    exact = torch.cat([gram, torch.zeros(len(bound) - len(gram), dtype=torch.float64)])
    ratio = linear_denoiser_mse(bound, schedule) / linear_denoiser_mse(exact, schedule)
    assert (ratio >= 1).all()
    assert ratio[-1] == pytest.approx(1, abs=1e-3)
    assert gaussian_bits_per_dim(bound) >= gaussian_bits_per_dim(exact)


def test_cosine_basis_is_orthonormal() -> None:
    basis = cosine_basis(9)
    torch.testing.assert_close(basis @ basis.T, torch.eye(9, dtype=torch.float64))


@pytest.mark.parametrize("images", [digits(), large()])
def test_the_images_themselves_vary_along_the_axes_as_the_eigenvalues_say(images: torch.Tensor) -> None:
    moments = image_moments([images])
    torch.testing.assert_close(moments.variances_of(images.split(300)), moments.eigenvalues, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("images", [digits(), large()])
def test_coordinates_keep_the_distances_of_other_images_from_the_mean(images: torch.Tensor) -> None:
    moments, others = image_moments([images]), 255 - images[:7]
    distances = (torch.from_numpy(flat(others)) - moments.mean_image.flatten()).square().sum(1)
    torch.testing.assert_close(moments.coordinates(others).square().sum(1), distances)
