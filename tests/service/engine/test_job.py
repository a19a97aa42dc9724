import pytest

from service.engine.job import Job, SamplingParams, SchedulingParams, State


def _job(guidance_scale: float = 1.0) -> Job:
    recipe = SamplingParams(seed=1, class_label=0, sampler="ddim", num_steps=10, guidance_scale=guidance_scale)
    return Job(recipe=recipe, terms=SchedulingParams(request_id="r", owner="o"))


def test_guidance_costs_a_second_row() -> None:
    assert _job().rows == 1
    assert _job(0.0).rows == _job(3.0).rows == 2
    assert _job(3.0).row_steps_left == 20


@pytest.mark.parametrize("state", [State.DONE, State.CANCELLED, State.EXPIRED, State.FAILED])
def test_a_job_ends_once(state: State) -> None:
    job = _job()
    job.end(state)
    assert not job.is_open
    with pytest.raises(RuntimeError, match=f"a job that is {state} cannot become done"):
        job.end(State.DONE)


def test_to_be_open_is_no_end() -> None:
    with pytest.raises(RuntimeError, match="cannot become drawing"):
        _job().end(State.DRAWING)
