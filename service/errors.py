"""Errors of the service, each with its HTTP status and a stable code."""

from collections.abc import Collection

INTERNAL_ERROR = "internal error; see the server's log"


class ServiceError(Exception):
    """Base of all errors that become an HTTP response; the message is sent to the client."""

    status = 500
    code = "internal_error"
    """Stable across versions; clients may compare it."""

    def __init__(
        self, message: str = INTERNAL_ERROR, *, param: str | None = None, retry_after_sec: int | None = None
    ) -> None:
        super().__init__(message)
        self.param = param
        self.retry_after_sec = retry_after_sec


class InvalidRequestError(ServiceError):
    """422: a field is unknown, has a wrong type or value, or does not fit the model."""

    status, code = 422, "invalid_request"


class MalformedBodyError(ServiceError):
    """400: the body is not JSON."""

    status, code = 400, "malformed_json"


class UnauthorizedError(ServiceError):
    """401: the API key is missing or wrong."""

    status, code = 401, "invalid_api_key"


class NotFoundError(ServiceError):
    """404: the path, model or request does not exist, or the request belongs to another key."""

    status, code = 404, "not_found"


class MethodNotAllowedError(ServiceError):
    """405: the path does not support the method; `Allow` lists those it supports."""

    status, code = 405, "method_not_allowed"

    def __init__(self, path: str, allowed: Collection[str]) -> None:
        self.allow = ", ".join(sorted(allowed))
        super().__init__(f"{path} supports {self.allow}")


class DuplicateIdError(ServiceError):
    """409: the client has an open request with this id."""

    status, code = 409, "duplicate_request_id"


class CancelledError(ServiceError):
    """409: the request was cancelled with /v1/images/cancel."""

    status, code = 409, "cancelled"


class SlowBodyError(ServiceError):
    """408: the body did not arrive in time."""

    status, code = 408, "request_timeout"


class BodyTooLargeError(ServiceError):
    """413: the body is larger than FOUNDRY_MAX_BODY_BYTES."""

    status, code = 413, "body_too_large"


class UnsupportedMediaTypeError(ServiceError):
    """415: the Content-Type is not application/json."""

    status, code = 415, "unsupported_media_type"


class ClientGoneError(ServiceError):
    """499, as in nginx: the client has disconnected. Nobody reads the response, but BentoML waits for one."""

    status, code = 499, "client_gone"


class QueueFullError(ServiceError):
    """429: the queue is full."""

    status, code = 429, "queue_full"


class KeyShareError(ServiceError):
    """429: the key has reached its share of the queue."""

    status, code = 429, "key_share_exceeded"


class TooManyConnectionsError(ServiceError):
    """429: too many requests or streams are open."""

    status, code = 429, "too_many_connections"


class NotReadyError(ServiceError):
    """503: the service is starting, or its engine is not alive."""

    status, code = 503, "not_ready"


class DrainingError(ServiceError):
    """503: the service is draining and refuses new requests."""

    status, code = 503, "draining"


class StoppedError(ServiceError):
    """503: the engine stopped while the request was open."""

    status, code = 503, "stopped"


class DeadlineUnattainableError(ServiceError):
    """503: the deadline cannot be met, or would break one that was accepted before."""

    status, code = 503, "deadline_unattainable"


class DeadlineExceededError(ServiceError):
    """504: the deadline, or the longest time of a request, has passed."""

    status, code = 504, "deadline_exceeded"


class NumericalError(ServiceError):
    """500: the network's output for an image was not finite."""

    status, code = 500, "numerical_error"
