"""Regression targets for a student of few steps that reproduces its teacher's images (Zhou et al. 2024, arXiv 2409.19681).

The student draws with DDIM and the teacher with any deterministic sampler in more steps, from the same noise. The
student's times are a subset of the teacher's. Its target at each of them is the denoised image from which a single DDIM
step leads to the teacher's state at the student's next time.
"""

from jaxtyping import Float, Int
from torch import Tensor

from pipeline.diffusion.noise import NoiseSchedule, roots


def shared_places(num_steps: int, num_teacher_steps: int) -> tuple[int, ...]:
    """The teacher's steps at which the student's steps begin: 0 and others, as equally spaced as possible.

    Args:
        num_steps: of the student, at most `num_teacher_steps`.
        num_teacher_steps: of the teacher.
    """
    return tuple(step * num_teacher_steps // num_steps for step in range(num_steps))


def answer(
    x: Float[Tensor, "rows c h w"],
    x_next: Float[Tensor, "rows c h w"],
    coefficients: Float[Tensor, "rows 4"],
) -> Float[Tensor, "rows c h w"]:
    """The denoised image with which one DDIM step leads from x to x_next: (x_next - A x) / B.

    Args:
        x: where the step begins.
        x_next: where it should end.
        coefficients: each row's line of a DDIM plan with eta 0, whose B is above 0.
    """
    A, B, _, _ = coefficients.to(x.dtype).to(x.device)[:, :, None, None, None].unbind(1)
    return (x_next - A * x) / B


def noise_in(
    x: Float[Tensor, "rows c h w"],
    x0: Float[Tensor, "rows c h w"],
    t: Int[Tensor, " rows"],
    schedule: NoiseSchedule,
) -> Float[Tensor, "rows c h w"]:
    """The eps with which `add_noise` turns x0 into x, so that any pair (x, x0) can serve as a training example."""
    a, b = (table[t][:, None, None, None] for table in roots(schedule, x.dtype, x.device))
    return (x - a * x0) / b
