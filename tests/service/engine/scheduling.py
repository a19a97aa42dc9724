"""A scheduler with requests and ticks, without an engine: a tick takes as long as `TICK_SEC` says."""

from hypothesis import strategies as st

from service.engine.forecast import TickTimes
from service.engine.request import Job, Request, SamplingParams
from service.engine.scheduler import Limits, Scheduler

TICK_SEC = {1: 0.004, 2: 0.005, 4: 0.006, 8: 0.008}
NUMBERS = iter(range(10**9))
LIMITS = st.builds(
    Limits,
    rows=st.integers(2, 8),
    open_images=st.integers(8, 40),
    open_row_steps=st.integers(40, 2000),
    owner_share=st.sampled_from([0.5, 1.0]),
    patience_ticks=st.integers(1, 20),
)


def new_scheduler(**limits: float) -> Scheduler:
    return Scheduler(Limits(**limits), TickTimes(TICK_SEC))  # type: ignore[arg-type]


def new_request(
    num_images: int = 1,
    num_steps: int = 10,
    *,
    owner: str = "a",
    priority: int = 0,
    deadline: float | None = None,
    guided: bool = False,
) -> Request:
    scale = 3.0 if guided else 1.0
    params = SamplingParams(seed=0, class_label=0, sampler="ddim", num_steps=num_steps, guidance_scale=scale)
    request = Request(
        request_id=str(next(NUMBERS)),
        owner=owner,
        images=(params,) * num_images,
        priority=priority,
        deadline_sec=deadline,
    )
    request.submit(0.0)
    return request


def admit(scheduler: Scheduler, *requests: Request, now: float = 0.0) -> None:
    for request in requests:
        scheduler.admit(request, now)


def run_tick(scheduler: Scheduler, now: float = 0.0) -> list[Job]:
    chosen = scheduler.choose(now)
    scheduler.advance(chosen)
    for job in chosen:
        if not job.steps_left:
            scheduler.close(job)
    return chosen
