import pytest

from service.engine.request import Request, SamplingParams
from service.engine.request_table import MAX_CLOSED, RequestTable
from service.errors import DuplicateIdError, NotFoundError

PARAMS = SamplingParams(seed=0, class_label=None, sampler="ddim", num_steps=2)


def _request(request_id: str, owner: str = "o") -> Request:
    return Request(request_id=request_id, owner=owner, images=(PARAMS,))


def test_an_open_id_is_in_use_for_its_owner_only() -> None:
    table, request = RequestTable(), _request("a")
    table.add(request)
    with pytest.raises(DuplicateIdError):
        table.check_free("o", "a")
    table.check_free("other", "a")
    table.close(request)
    table.check_free("o", "a")


def test_a_request_is_found_by_its_owner_while_open_and_after_its_end() -> None:
    table, request = RequestTable(), _request("a")
    table.add(request)
    assert table.find("o", "a") is request
    table.close(request)
    assert list(table.open_requests) == []
    assert table.find("o", "a") is request
    with pytest.raises(NotFoundError):
        table.find("other", "a")


def test_a_reused_id_finds_the_newer_request() -> None:
    table, first, second = RequestTable(), _request("a"), _request("a")
    for request in (first, second):
        table.add(request)
        assert table.find("o", "a") is request
        table.close(request)
    assert table.find("o", "a") is second


def test_only_the_latest_closed_requests_are_kept() -> None:
    table = RequestTable()
    for number in range(MAX_CLOSED + 1):
        table.add(request := _request(str(number)))
        table.close(request)
    with pytest.raises(NotFoundError):
        table.find("o", "0")
    assert table.find("o", "1").request_id == "1"
