"""Which t a sampler with few steps should visit: by rule, or by what the spectrum of the data says.

For Gaussian data the best denoiser is linear, and so is each step of each sampler. In every direction of the
covariance the images that come out are then Gaussian too, with a variance that follows from the table alone. So each
timetable can be scored before any network is trained (`surrogate_kl`), and the best one searched for (`optimise`).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.diffusion.errors import FoundryError
from pipeline.diffusion.moments import BYTE
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.sampling import Sampler, SamplerPlan, coefficients, make_plan

Grid = Literal["uniform", "trailing", "log_snr", "karras"]


def timetable(grid: Grid, schedule: NoiseSchedule, num_steps: int) -> tuple[int, ...]:
    """`num_steps` strictly falling t, the first T-1, for any number of steps from 1 to T.

    `uniform` is equally spaced from T-1 to 0; `trailing` equally spaced and as far from the image at its end as
    between its steps (Lin et al. 2023, table 2); `log_snr` equally spaced in log-SNR (Lu et al. 2022); `karras` in
    the seventh root of sigma (Karras et al. 2022, eq. 5). Where neighbours round to the same t, the later ones move
    on to the next that is free.

    Raises:
        FoundryError: the number of steps is not in 1 … T.

    """
    T = schedule.num_timesteps
    if not 1 <= num_steps <= T:
        raise FoundryError(f"num_steps: should be in 1 … {T}, the number of noise levels (got {num_steps})")
    return tuple(_distinct(GRIDS[grid](schedule, num_steps), T).tolist())


def _uniform(schedule: NoiseSchedule, num_steps: int) -> Int[Tensor, " steps"]:
    return torch.linspace(schedule.num_timesteps - 1, 0, num_steps, dtype=torch.float64).round().long()


def _trailing(schedule: NoiseSchedule, num_steps: int) -> Int[Tensor, " steps"]:
    T = schedule.num_timesteps
    return (T - torch.arange(num_steps, dtype=torch.float64) * T / num_steps).round().long() - 1


def _log_snr(schedule: NoiseSchedule, num_steps: int) -> Int[Tensor, " steps"]:
    log_sigma = _log_sigma(schedule)
    return _nearest(torch.linspace(log_sigma[-1], log_sigma[0], num_steps, dtype=torch.float64), log_sigma)


def _karras(schedule: NoiseSchedule, num_steps: int) -> Int[Tensor, " steps"]:
    log_sigma, rho = _log_sigma(schedule), 7
    root = (log_sigma / rho).exp()
    return _nearest(rho * torch.linspace(root[-1], root[0], num_steps, dtype=torch.float64).log(), log_sigma)


GRIDS: dict[Grid, Callable[[NoiseSchedule, int], Int[Tensor, " steps"]]] = {
    "uniform": _uniform,
    "trailing": _trailing,
    "log_snr": _log_snr,
    "karras": _karras,
}


def _log_sigma(schedule: NoiseSchedule) -> Float[Tensor, " T"]:
    """log sigma of every t; where the last is infinite (zero terminal SNR), that of the t before."""
    log_sigma = -schedule.log_snr / 2
    return torch.where(log_sigma.isinf(), log_sigma[-2:].min().nan_to_num(), log_sigma)


def _nearest(wanted: Float[Tensor, " steps"], levels: Float[Tensor, " T"]) -> Int[Tensor, " steps"]:
    """Of rising levels the position of the nearest to each wanted one."""
    return (wanted[:, None] - levels).abs().argmin(dim=1)


def _distinct(t: Int[Tensor, " steps"], T: int) -> Int[Tensor, " steps"]:
    """Falling t made strictly falling, the first T-1: each moves as little as the ones before it allow."""
    place = torch.arange(len(t))
    room = torch.maximum(t, len(t) - 1 - place)
    room[0] = T - 1
    return (room + place).cummin(dim=0).values - place


PIXEL_VARIANCE = BYTE**2 / 12
"""Variance that rounding to bytes adds to every direction: finer errors than that cannot be seen."""

EXCESS_ERROR = 0.01
"""Share by which a trained denoiser's squared error is taken to exceed the least, independently in every step.

Without it the search finds steps of 2M that lie so close together that x0 is extrapolated a hundredfold, which is
right for an exact denoiser alone.
"""

NUM_GROUPS = 64
"""Eigenvalues that stand for all in the search."""

LEAST_GAIN = 1e-3
"""Share of the loss that a move of the search must win."""


def output_variance(
    plan: SamplerPlan, schedule: NoiseSchedule, eigenvalues: Float[Tensor, " d"]
) -> Float[Tensor, " d"]:
    """Variance of what the plan draws, without clipping, in each direction of Gaussian data, with its best denoiser.

    The eigenvalues are those of the data's covariance, none below 0.
    """
    return _output(plan.coefficients[None], plan.times[None], schedule, eigenvalues)[0, 0]


def surrogate_kl(plan: SamplerPlan, schedule: NoiseSchedule, eigenvalues: Float[Tensor, " d"]) -> float:
    """KL(data || images drawn) in bits per dimension, for Gaussian data with this spectrum, both rounded to bytes.

    Mean images are taken as equal, and are up to what the first t still knows of the image.
    """
    # 0.5 (lambda / v - 1 - log(lambda / v)) of two Gaussians with one mean
    ratio = (eigenvalues + PIXEL_VARIANCE) / (output_variance(plan, schedule, eigenvalues) + PIXEL_VARIANCE)
    return (ratio - 1 - ratio.log()).mean().item() / (2 * math.log(2))


def surrogate_error(plan: SamplerPlan, schedule: NoiseSchedule, eigenvalues: Float[Tensor, " d"]) -> float:
    """Squared error per dimension of the images drawn, for Gaussian data with this spectrum and a nearly best denoiser.

    It is the Fréchet distance of the data from what the best denoiser draws, and the variance that the excess error of
    the denoiser adds. For samplers without noise this is the mean squared difference of an image from the one that
    the exact probability flow makes of the same first noise.
    """
    return _error(plan.coefficients[None], plan.times[None], schedule, eigenvalues).mean().item()


def optimise(
    sampler: Sampler, num_steps: int, schedule: NoiseSchedule, eigenvalues: Float[Tensor, " d"]
) -> tuple[int, ...]:
    """The timetable of `num_steps` that loses least by `surrogate_error`, as far as a local search finds it.

    The first t is T-1, the only one where images may start as pure noise. The search starts from the optimum for half
    as many steps, stretched, and moves one t at a time; it is never worse than the grids of `timetable`. Made for up
    to 50 steps: its time grows with the square of their number. The eigenvalues should not be below 0.

    Raises:
        FoundryError: the number of steps is not in 1 … T.

    """
    found = _search(_loss(sampler, schedule, eigenvalues), num_steps, schedule)
    return _best(found, sampler, schedule, eigenvalues)


def optimise_each(
    sampler: Sampler, numbers: Sequence[int], schedule: NoiseSchedule, eigenvalues: Float[Tensor, " d"]
) -> Iterator[tuple[int, ...]]:
    """`optimise` for rising numbers of steps, each search from the optimum before, stretched.

    One after the other like this the timetables for 4 … 50 steps take a quarter of the time of separate searches.
    """
    loss, T = _loss(sampler, schedule, eigenvalues), schedule.num_timesteps
    found: Int[Tensor, " steps"] | None = None
    for number in numbers:
        found = _search(loss, number, schedule) if found is None else _descend(loss, _stretched(found, number, T), T)
        yield _best(found, sampler, schedule, eigenvalues)


Loss = Callable[[Int[Tensor, "plans steps"]], Float[Tensor, " plans"]]


def _loss(sampler: Sampler, schedule: NoiseSchedule, eigenvalues: Float[Tensor, " d"]) -> Loss:
    """`surrogate_error` of many timetables at once, on grouped eigenvalues."""
    values, weights = _grouped(eigenvalues)

    def loss(t: Int[Tensor, "plans steps"]) -> Float[Tensor, " plans"]:
        return _error(coefficients(sampler, schedule, t), t, schedule, values) @ weights

    return loss


def _best(
    found: Int[Tensor, " steps"], sampler: Sampler, schedule: NoiseSchedule, eigenvalues: Float[Tensor, " d"]
) -> tuple[int, ...]:
    """The timetable that was found, or the grid that is better still."""
    grids = [timetable(grid, schedule, len(found)) for grid in GRIDS]
    return min(
        [tuple(found.tolist()), *grids],
        key=lambda times: surrogate_error(make_plan(sampler, schedule, times), schedule, eigenvalues),
    )


def _search(loss: Loss, num_steps: int, schedule: NoiseSchedule) -> Int[Tensor, " steps"]:
    """Coarse to fine: a few steps find their places at once, many only near to them."""
    T = schedule.num_timesteps
    if num_steps <= 4:
        starts = torch.tensor([timetable(grid, schedule, num_steps) for grid in GRIDS])
        return _descend(loss, starts[loss(starts).argmin()], T)
    return _descend(loss, _stretched(_search(loss, num_steps // 2 + 1, schedule), num_steps, T), T)


def _descend(loss: Loss, t: Int[Tensor, " steps"], T: int) -> Int[Tensor, " steps"]:
    """Move one t after the other to the best free place at a distance of 1, 2, 4, …, until none gains."""
    distances = 2 ** torch.arange(max(1, (T - 1).bit_length()))
    moves = torch.cat([-distances, distances])
    lowest, moved = loss(t[None]).item(), True
    while moved:
        moved = False
        for place in range(1, len(t)):
            end = t[place + 1] if place + 1 < len(t) else -1
            wanted = t[place] + moves
            wanted = wanted[(wanted > end) & (wanted < t[place - 1])]
            if not len(wanted):
                continue
            candidates = t.repeat(len(wanted), 1)
            candidates[:, place] = wanted
            losses = loss(candidates)
            if losses.min() < lowest * (1 - LEAST_GAIN):
                lowest, t, moved = losses.min().item(), candidates[losses.argmin()], True
    return t


def _stretched(t: Int[Tensor, " coarse"], num_steps: int, T: int) -> Int[Tensor, " steps"]:
    """A timetable of the same shape with more steps."""
    place = torch.linspace(0, len(t) - 1, num_steps, dtype=torch.float64)
    low = place.long().clamp(max=len(t) - 2)
    return _distinct(torch.lerp(t[low].double(), t[low + 1].double(), place - low).round().long(), T)


def _error(
    table: Float[Tensor, "plans steps 4"],
    t: Int[Tensor, "plans steps"],
    schedule: NoiseSchedule,
    eigenvalues: Float[Tensor, " d"],
) -> Float[Tensor, "plans d"]:
    """Fréchet distance of Gaussian data, and the variance of the denoiser's error, in every direction."""
    variance, error = _output(table, t, schedule, eigenvalues)
    return (eigenvalues.sqrt() - variance.sqrt()) ** 2 + error


def _output(
    table: Float[Tensor, "plans steps 4"],
    t: Int[Tensor, "plans steps"],
    schedule: NoiseSchedule,
    eigenvalues: Float[Tensor, " d"],
) -> Float[Tensor, "two plans d"]:
    """Variance of the images drawn with the best denoiser, and of the error in them that its excess error makes."""
    abar, noise = schedule.abar[t][..., None], schedule.one_minus_abar[t][..., None]
    total = abar * eigenvalues + noise
    # x0 ~ N(0, lambda) given x has the mean `gain` x and the variance lambda (1 - abar) / (abar lambda + 1 - abar)
    gains, least = abar.sqrt() * eigenvalues / total, eigenvalues * noise / total
    # What each step draws, and the error that its denoised image brings, side by side from here on
    drawn = torch.stack([table[..., 3:] ** 2 * torch.ones_like(gains), torch.zeros_like(gains)])
    brought = torch.stack([torch.zeros_like(gains), EXCESS_ERROR * least])

    # Variance of x, its covariance with the denoised image of the step before, and that image's variance
    x = torch.stack([torch.ones_like(gains[:, 0]), torch.zeros_like(gains[:, 0])])
    both, prev = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(t.shape[1]):
        A, B, C, _ = table[:, step, :, None].unbind(1)
        gain, error = gains[:, step], brought[:, :, step]
        factor = A + B * gain
        x, both, prev = (
            factor**2 * x + 2 * factor * C * both + C**2 * prev + B**2 * error + drawn[:, :, step],
            gain * (factor * x + C * both) + B * error,
            gain**2 * x + error,
        )
    return x


def _grouped(eigenvalues: Float[Tensor, " d"]) -> tuple[Float[Tensor, " groups"], Float[Tensor, " groups"]]:
    """Means of at most 64 groups of eigenvalues of nearly the same size, and the share of each."""
    size = (eigenvalues + PIXEL_VARIANCE).log()
    edges = torch.linspace(size.min().item(), size.max().item(), NUM_GROUPS + 1, dtype=torch.float64)
    group = torch.bucketize(size, edges[1:-1])
    counts = torch.bincount(group, minlength=NUM_GROUPS).double()
    sums = torch.zeros_like(counts).index_add(0, group, eigenvalues)
    some = counts > 0
    return sums[some] / counts[some], counts[some] / len(eigenvalues)
