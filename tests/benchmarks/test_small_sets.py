import numpy as np
import torch

from benchmarks.small_sets import Curve, digits, report, with_linear_denoiser
from pipeline.training.pace import cosine_table


def test_no_held_out_digit_is_trained_on() -> None:
    train, held_out = digits(300)
    seen = {image.tobytes() for image in train.images(np.arange(300))}
    assert len(held_out) == 400
    shared = [image for image in held_out.images(np.arange(400)) if image.tobytes() in seen]
    # Equal pixels happen in the collection itself.
    assert len(shared) <= 1


def test_the_linear_denoiser_knows_the_variance_where_noise_is_all() -> None:
    train, _ = digits(300)
    error = with_linear_denoiser(cosine_table("bounded_snr"), train).linear_denoiser_mse
    pixels = torch.from_numpy(train.images(np.arange(300))).double() / 127.5 - 1
    assert torch.isclose(error[-1], pixels.flatten(1).var(dim=0).mean(), rtol=1e-3)
    assert (error.diff() > 0).all()


def test_the_table_has_the_least_and_the_last_error() -> None:
    assert report({"plain": Curve([0.8, 0.7, 0.75], [0.8, 0.6, 0.5])}).splitlines()[2:] == [
        "| plain | 0.7 | 0.75 | 0.5 |"
    ]
