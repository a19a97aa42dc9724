import pytest

from service.engine.request import Request, SamplingParams


def _request(num_images: int = 1, *, guidance_scale: float = 1.0, deadline_sec: float | None = None) -> Request:
    params = SamplingParams(seed=1, class_label=0, sampler="ddim", num_steps=10, guidance_scale=guidance_scale)
    return Request(request_id="r", owner="o", images=(params,) * num_images, deadline_sec=deadline_sec)


def test_guidance_needs_a_second_row() -> None:
    assert _request().jobs[0].rows == 1
    assert _request(guidance_scale=0.0).jobs[0].rows == _request(guidance_scale=3.0).jobs[0].rows == 2
    assert _request(guidance_scale=3.0).jobs[0].row_steps_left == 20


def test_guidance_in_a_part_of_the_steps_needs_the_second_row_there_alone() -> None:
    params = SamplingParams(
        seed=1, class_label=0, sampler="ddim", num_steps=10, guidance_scale=3.0, guidance_interval=(0.2, 0.55)
    )
    [job] = Request(request_id="r", owner="o", images=(params,)).jobs
    seen = []
    for job.step in range(10):
        seen.append((job.rows, job.most_rows, job.guidance_scale, job.row_steps_left))
    assert [rows for rows, *_ in seen] == [1, 1, 2, 2, 2, 2, 1, 1, 1, 1]
    assert [most for _, most, *_ in seen] == [2] * 6 + [1] * 4
    assert [scale for *_, scale, _ in seen] == [1.0, 1.0, 3.0, 3.0, 3.0, 3.0, 1.0, 1.0, 1.0, 1.0]
    assert [left for *_, left in seen] == [14, 13, 12, 10, 8, 6, 4, 3, 2, 1]
    assert params.row_steps == 14


def test_a_request_is_open_until_all_its_images_are_closed() -> None:
    request = _request(2)
    first, second = request.jobs
    first.step = 10
    first.is_open = False
    assert (request.is_open, request.steps_done, request.steps) == (True, 10, 20)
    second.is_open = False
    assert (request.is_open, request.status) == (False, "completed")


@pytest.mark.parametrize(("deadline_sec", "deadline", "expires"), [(None, None, 310), (5, 15, 15), (500, 310, 310)])
def test_times_count_from_the_submission_and_the_longest_request_bounds_them(
    deadline_sec: float | None, deadline: float | None, expires: float
) -> None:
    request = _request(deadline_sec=deadline_sec)
    request.submit(10, max_sec=300)
    assert (request.deadline, request.expires) == (deadline, expires)
