import pytest

from service.engine.request import Request, SamplingParams
from service.engine.request_table import MAX_CLOSED, RequestTable
from service.errors import NotFoundError

PARAMS = SamplingParams(seed=0, class_label=None, sampler="ddim", num_steps=2)


def _request(request_id: str, owner: str = "o") -> Request:
    return Request(request_id=request_id, owner=owner, images=(PARAMS,))


def test_requests_that_share_a_trace_id_are_found_by_it_open_ones_first_and_newest_first() -> None:
    table, requests = RequestTable(), [_request(name) for name in "abc"]
    for request in requests:
        request.trace_id = "trace"
        table.add(request)
    first, second, third = requests
    table.close(third)
    assert table.find("o", "trace") == [second, first, third]
    assert table.find("o", "a") == [first]
    with pytest.raises(NotFoundError):
        table.find("other", "trace")


def test_a_request_is_found_by_its_owner_while_open_and_after_its_end() -> None:
    table, request = RequestTable(), _request("a")
    table.add(request)
    assert table.find("o", "a") == [request]
    table.close(request)
    assert list(table.open_requests) == []
    assert table.find("o", "a") == [request]
    with pytest.raises(NotFoundError):
        table.find("other", "a")


def test_only_the_latest_closed_requests_are_kept() -> None:
    table = RequestTable()
    for number in range(MAX_CLOSED + 1):
        table.add(request := _request(str(number)))
        table.close(request)
    with pytest.raises(NotFoundError):
        table.find("o", "0")
    assert table.find("o", "1")[0].request_id == "1"
