"""The plan that a model is sampled with: the same wherever it is drawn from."""

from pipeline.diffusion.artefact import Model
from pipeline.diffusion.sampling import Sampler, SamplerPlan, make_plan
from pipeline.diffusion.timetables import timetable


def plan_for(model: Model, sampler: Sampler, num_steps: int, *, eta: float = 0.0) -> SamplerPlan:
    """The model's own timetable where it has one for this sampler and number of steps, else equally spaced times.

    Raises:
        FoundryError: the number of steps is not in 1 … T, or eta does not fit the sampler.

    """
    known = model.description.timetables.get(sampler, {}).get(str(num_steps))
    times = known or timetable("trailing", model.schedule, num_steps)
    return make_plan(sampler, model.schedule, times, eta=eta)
