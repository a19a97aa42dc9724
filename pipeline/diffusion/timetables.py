"""Timetables, the t that a sampler with few steps visits: by rule, or optimised for the spectrum of the data.

The rules are in `timetable`. `optimise_each` searches for the times with the least error on Gaussian data with the
spectrum of the data set (surrogate.py); `stretched` adapts a timetable to another number of steps.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.samplers import Sampler
from pipeline.diffusion.sampling import coefficients
from pipeline.diffusion.surrogate import PIXEL_VARIANCE, errors
from pipeline.errors import FoundryError

Grid = Literal["uniform", "trailing", "log_snr", "karras"]


def timetable(grid: Grid, schedule: NoiseSchedule, num_steps: int) -> tuple[int, ...]:
    """`num_steps` strictly falling t, the first T-1, for any number of steps from 1 to T.

    `uniform` is equally spaced from T-1 to 0; `trailing` equally spaced and as far from the image at its end as
    between its steps (Lin et al. 2023, table 2); `log_snr` equally spaced in log-SNR (Lu et al. 2022); `karras` in
    the seventh root of sigma (Karras et al. 2022, eq. 5). Where neighbours round to the same t, the later ones move
    on to the next free t.

    Raises:
        FoundryError: the number of steps is not in 1 … T.
    """
    _check_num_steps(num_steps, schedule)
    return tuple(_distinct(GRIDS[grid](schedule, num_steps), schedule.num_timesteps).tolist())


def stretched(times: Sequence[int], num_steps: int, schedule: NoiseSchedule) -> tuple[int, ...]:
    """A timetable of the same shape with another number of steps, the first t T-1.

    Stretched from the optimised times for the next larger number of steps, it has as small an error as a new search
    finds.

    Raises:
        FoundryError: the number of steps is not in 1 … T.
    """
    _check_num_steps(num_steps, schedule)
    return tuple(_stretched(torch.tensor(list(times)), num_steps, schedule.num_timesteps).tolist())


def _check_num_steps(num_steps: int, schedule: NoiseSchedule) -> None:
    T = schedule.num_timesteps
    if not 1 <= num_steps <= T:
        raise FoundryError(f"num_steps: should be in 1 … {T}, the number of noise levels (got {num_steps})")


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
    """log sigma of every t; if the last is infinite (zero terminal SNR), that of the t before in its place."""
    log_sigma = -schedule.log_snr / 2
    return torch.where(log_sigma.isinf(), log_sigma[-2:].min().nan_to_num(), log_sigma)


def _nearest(wanted: Float[Tensor, " steps"], levels: Float[Tensor, " T"]) -> Int[Tensor, " steps"]:
    """Position of the nearest of the rising `levels` to each wanted one."""
    return (wanted[:, None] - levels).abs().argmin(dim=1)


def _distinct(t: Int[Tensor, " steps"], T: int) -> Int[Tensor, " steps"]:
    """Falling t made strictly falling, the first T-1; each moves as little as those before it allow."""
    place = torch.arange(len(t))
    room = torch.maximum(t, len(t) - 1 - place)
    room[0] = T - 1
    return (room + place).cummin(dim=0).values - place


NUM_GROUPS, NUM_FINE_GROUPS = 64, 1024
"""Groups of eigenvalues, each represented by its mean, in the search and in the last comparison with the grids: 256x256
RGB has 196,608 eigenvalues, which take minutes and gigabytes one by one."""

LEAST_GAIN = 1e-3
"""Least relative improvement for which the search moves."""


def optimise_each(
    sampler: Sampler, numbers: Sequence[int], schedule: NoiseSchedule, eigenvalues: Float[Tensor, " d"]
) -> Iterator[tuple[int, ...]]:
    """The timetable with the least `surrogate_error` that a local search finds, for each of rising numbers of steps.

    The first t is T-1, the only one at which images may start as pure noise. Each search starts from the previous
    optimum, stretched, and the first one from the optimum for half as many steps; it moves one or more t at a time. The
    result is never worse than the grids of `timetable`. Meant for up to 50 steps: the time grows with the square of
    their number.

    Raises:
        FoundryError: a number of steps is not in 1 … T.
    """
    loss, T = _loss(sampler, schedule, eigenvalues), schedule.num_timesteps
    fine_loss = _loss(sampler, schedule, eigenvalues, NUM_FINE_GROUPS)
    found: Int[Tensor, " steps"] | None = None
    for number in numbers:
        _check_num_steps(number, schedule)
        found = _search(loss, number, schedule) if found is None else _descend(loss, _stretched(found, number, T), T)
        yield _best(found, fine_loss, schedule)


Loss = Callable[[Int[Tensor, "plans steps"]], Float[Tensor, " plans"]]


def _loss(
    sampler: Sampler, schedule: NoiseSchedule, eigenvalues: Float[Tensor, " d"], num_groups: int = NUM_GROUPS
) -> Loss:
    """`surrogate_error` of many timetables at once, on grouped eigenvalues."""
    values, weights = _grouped(eigenvalues.clamp(min=0), num_groups)

    def loss(t: Int[Tensor, "plans steps"]) -> Float[Tensor, " plans"]:
        found: Tensor = errors(coefficients(sampler, schedule, t), t, schedule, values)
        return found @ weights

    return loss


def _best(found: Int[Tensor, " steps"], loss: Loss, schedule: NoiseSchedule) -> tuple[int, ...]:
    """The timetable `found`, or a grid if that is better."""
    candidates = [found, *(torch.tensor(timetable(grid, schedule, len(found))) for grid in GRIDS)]
    best: list[int] = candidates[int(loss(torch.stack(candidates)).argmin())].tolist()
    return tuple(best)


def _search(loss: Loss, num_steps: int, schedule: NoiseSchedule) -> Int[Tensor, " steps"]:
    """Search coarse to fine: few steps converge from any start, many only from near the optimum."""
    T = schedule.num_timesteps
    if num_steps <= 4:
        starts = torch.tensor([timetable(grid, schedule, num_steps) for grid in GRIDS])
        return _descend(loss, starts[loss(starts).argmin()], T)
    return _descend(loss, _stretched(_search(loss, num_steps // 2 + 1, schedule), num_steps, T), T)


def _descend(loss: Loss, t: Int[Tensor, " steps"], T: int) -> Int[Tensor, " steps"]:
    """Move one t, two neighbours, or all from one on, by ±1, 2, 4, … to the least loss, until no move improves it."""
    distances = 2 ** torch.arange(max(1, (T - 1).bit_length()))
    moves = torch.cat([-distances, distances])[:, None, None]
    place = torch.arange(len(t))
    lowest, moved = loss(t[None]).item(), True
    while moved:
        moved = False
        for first in range(1, len(t)):
            runs = torch.stack([(place >= first) & (place < first + length) for length in (1, 2, len(t))])
            candidates = (t + moves * runs).flatten(0, 1)
            candidates = candidates[(candidates.diff() < 0).all(dim=1) & (candidates[:, -1] >= 0)]
            if not len(candidates):
                continue
            losses = loss(candidates)
            if losses.min() < lowest * (1 - LEAST_GAIN):
                lowest, t, moved = losses.min().item(), candidates[losses.argmin()], True
    return t


def _stretched(t: Int[Tensor, " coarse"], num_steps: int, T: int) -> Int[Tensor, " steps"]:
    place = torch.linspace(0, len(t) - 1, num_steps, dtype=torch.float64)
    low, high = place.floor().long(), place.ceil().long()
    return _distinct(torch.lerp(t[low].double(), t[high].double(), place - low).round().long(), T)


def _grouped(
    eigenvalues: Float[Tensor, " d"], num_groups: int
) -> tuple[Float[Tensor, " groups"], Float[Tensor, " groups"]]:
    """Means of at most `num_groups` groups of eigenvalues of similar size, and the share of each group."""
    size = (eigenvalues + PIXEL_VARIANCE).log()
    edges = torch.linspace(size.min().item(), size.max().item(), num_groups + 1, dtype=torch.float64)
    group = torch.bucketize(size, edges[1:-1])
    counts = torch.bincount(group, minlength=num_groups).double()
    sums = torch.zeros_like(counts).index_add(0, group, eigenvalues)
    some = counts > 0
    return sums[some] / counts[some], counts[some] / len(eigenvalues)


def times_for(known: Mapping[str, tuple[int, ...]], num_steps: int, schedule: NoiseSchedule) -> tuple[int, ...]:
    """The known timetable with `num_steps`; else the next longer or the longest one, stretched; else a `trailing` one.

    Raises:
        FoundryError: the number of steps is not in 1 … T.
    """
    if str(num_steps) in known:
        return known[str(num_steps)]
    if not known:
        return timetable("trailing", schedule, num_steps)
    lengths = sorted(map(int, known))
    nearest = next((length for length in lengths if length > num_steps), lengths[-1])
    return stretched(known[str(nearest)], num_steps, schedule)
