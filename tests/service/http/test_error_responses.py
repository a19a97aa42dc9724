import inspect

import pytest

from service import errors
from service.errors import MethodNotAllowedError, ServiceError, UnauthorizedError
from service.http.error_responses import error_body, error_response, invalid_fields

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, ServiceError) and kind is not MethodNotAllowedError
]


def test_every_error_has_a_code_of_its_own() -> None:
    assert len({kind.code for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_has_the_same_shape(kind: type[ServiceError]) -> None:
    error = kind("because", param="p")
    body = error_body(error, "id").error
    assert (body.message, body.code, body.param, body.request_id) == ("because", kind.code, "p", "id")
    assert body.type == {401: "authentication_error", 429: "rate_limit_error"}.get(
        kind.status, "server_error" if kind.status >= 500 else "invalid_request_error"
    )


def test_headers_say_when_to_retry_and_how_to_authenticate() -> None:
    assert error_response(errors.QueueFullError("full", retry_after_sec=7), "id").headers["retry-after"] == "7"
    assert error_response(UnauthorizedError("who?"), "id").headers["www-authenticate"] == "Bearer"
    assert "retry-after" not in error_response(errors.NotFoundError("none"), "id").headers


def test_an_unsupported_method_gets_the_supported_ones() -> None:
    error = MethodNotAllowedError("/x", {"POST", "GET"})
    assert str(error) == "/x supports GET, POST"
    assert error_response(error, "id").headers["allow"] == "GET, POST"


def test_every_field_is_named_once_and_the_first_is_param() -> None:
    findings = [
        {"loc": ("body", "n"), "type": "less_than_equal", "msg": "too many"},
        {"loc": ("body", "class_label", "str"), "type": "string_type", "msg": "should be text"},
        {"loc": ("body", "class_label", "int"), "type": "int_type", "msg": "should be a number"},
    ]
    error = invalid_fields(findings)
    assert str(error) == "n: too many; class_label: should be the name of a class, its index, or null"
    assert error.param == "n"


def test_a_body_that_is_no_object_has_no_field() -> None:
    error = invalid_fields([{"loc": ("body",), "type": "dict_type", "msg": "should be an object"}])
    assert (str(error), error.param) == ("should be an object", None)
