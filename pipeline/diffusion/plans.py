"""The plan that a model is sampled with: the same wherever it is drawn from."""

from collections.abc import Mapping

from pipeline.diffusion.artefact import Model
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.sampling import Sampler, SamplerPlan, make_plan
from pipeline.diffusion.timetables import stretched, timetable


def plan_for(model: Model, sampler: Sampler, num_steps: int, *, eta: float = 0.0) -> SamplerPlan:
    """The model's timetable for this sampler and number of steps, as `times_for` finds it, with the sampler's table.

    Raises:
        FoundryError: the number of steps is not in 1 … T, or eta does not fit the sampler.

    """
    times = times_for(model.description.timetables.get(sampler, {}), num_steps, model.schedule)
    return make_plan(sampler, model.schedule, times, eta=eta)


def times_for(known: Mapping[str, tuple[int, ...]], num_steps: int, schedule: NoiseSchedule) -> tuple[int, ...]:
    """The known timetable of so many steps, else the next longer one stretched, or the longest; else equal distances.

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
