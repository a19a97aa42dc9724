import pytest

from service.engine.job import SamplingParams, SchedulingParams
from service.engine.request import Order, RequestHandle
from service.engine.request_table import CLOSED_KEPT, RequestTable
from service.errors import DuplicateIdError, NotFoundError

RECIPE = SamplingParams(seed=0, class_label=None, sampler="ddim", num_steps=2)


def _ticket(request_id: str, owner: str = "o") -> RequestHandle:
    order = Order(request_id=request_id, owner=owner, recipes=(RECIPE,))
    terms = SchedulingParams(request_id=request_id, owner=owner)
    return RequestHandle(order=order, terms=terms, listener=print, submitted=0.0)


def test_an_open_id_is_taken_for_its_owner_alone() -> None:
    roster, ticket = RequestTable(), _ticket("a")
    roster.enter(ticket)
    with pytest.raises(DuplicateIdError):
        roster.check_free("o", "a")
    roster.check_free("other", "a")
    roster.close(ticket)
    roster.check_free("o", "a")


def test_a_request_is_found_by_its_job_and_after_its_end_by_its_owner() -> None:
    roster, ticket = RequestTable(), _ticket("a")
    roster.enter(ticket)
    assert roster.of(ticket.jobs[0]) is roster.find("o", "a") is ticket
    roster.close(ticket)
    assert list(roster.open_tickets) == []
    assert roster.find("o", "a") is ticket
    with pytest.raises(NotFoundError):
        roster.find("other", "a")


def test_an_id_that_is_used_again_is_the_newer_request() -> None:
    roster, first, second = RequestTable(), _ticket("a"), _ticket("a")
    for ticket in (first, second):
        roster.enter(ticket)
        assert roster.find("o", "a") is ticket
        roster.close(ticket)
    assert roster.find("o", "a") is second


def test_the_oldest_of_many_that_have_ended_are_forgotten() -> None:
    roster = RequestTable()
    for number in range(CLOSED_KEPT + 1):
        roster.enter(ticket := _ticket(str(number)))
        roster.close(ticket)
    with pytest.raises(NotFoundError):
        roster.find("o", "0")
    assert roster.find("o", "1").order.request_id == "1"
