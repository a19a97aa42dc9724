"""Errors of the service, each with its HTTP status and a stable code."""

from collections.abc import Collection


class ServiceError(Exception):
    """An HTTP response with this status and code, whose message is sent to the client; itself an unexpected error."""

    status = 500
    code = "internal_error"
    """Stable across versions; clients may compare it."""
    is_retryable = True
    """Whether the same request may succeed later."""

    def __init_subclass__(cls, *, status: int, code: str, is_retryable: bool = False) -> None:
        cls.status, cls.code, cls.is_retryable = status, code, is_retryable

    def __init__(self, message: str = "", *, param: str | None = None, retry_after_sec: int | None = None) -> None:
        super().__init__(message or "internal error; see the server's log")
        self.param = param
        self.retry_after_sec = retry_after_sec


class InvalidRequestError(ServiceError, status=422, code="invalid_request"):
    """A field is unknown, has a wrong type or value, or does not fit the model."""


class MalformedBodyError(ServiceError, status=400, code="malformed_json"):
    """The body is not JSON."""


class UnauthorizedError(ServiceError, status=401, code="invalid_api_key"):
    """The API key is missing or wrong."""


class HostNotAllowedError(ServiceError, status=403, code="host_not_allowed"):
    """Without keys: the Host header names neither this machine nor one of FOUNDRY_ALLOWED_HOSTS."""


class NotFoundError(ServiceError, status=404, code="not_found"):
    """The path, model or request does not exist, or the request belongs to another key."""


class MethodNotAllowedError(ServiceError, status=405, code="method_not_allowed"):
    """The path does not support the method; `Allow` lists those it supports."""

    def __init__(self, path: str, allowed: Collection[str]) -> None:
        self.allow = ", ".join(sorted(allowed))
        super().__init__(f"{path} supports {self.allow}")


class CancelledError(ServiceError, status=409, code="cancelled"):
    """The request was cancelled with /v1/images/cancel."""


class SlowBodyError(ServiceError, status=408, code="request_timeout", is_retryable=True):
    """The body did not arrive in time."""


class BodyTooLargeError(ServiceError, status=413, code="body_too_large"):
    """The body is larger than FOUNDRY_MAX_BODY_BYTES."""


class UnsupportedMediaTypeError(ServiceError, status=415, code="unsupported_media_type"):
    """The Content-Type is not application/json."""


class ClientGoneError(ServiceError, status=499, code="client_gone"):
    """As in nginx: the client has disconnected. Nobody reads the response, but BentoML waits for one."""


class QueueFullError(ServiceError, status=429, code="queue_full", is_retryable=True):
    """The queue is full."""


class KeyShareError(ServiceError, status=429, code="key_share_exceeded", is_retryable=True):
    """The key has reached its share of the queue."""


class TooManyConnectionsError(ServiceError, status=429, code="too_many_connections", is_retryable=True):
    """Too many requests or streams are open."""


class NotReadyError(ServiceError, status=503, code="not_ready", is_retryable=True):
    """The service is starting, or its engine is not alive."""


class DrainingError(ServiceError, status=503, code="draining", is_retryable=True):
    """The service is draining and refuses new requests."""


class StoppedError(ServiceError, status=503, code="stopped", is_retryable=True):
    """The engine stopped while the request was open."""


class DeadlineUnattainableError(ServiceError, status=503, code="deadline_unattainable"):
    """The deadline, or the longest time of a request, cannot be met, or one that was accepted before would be broken."""

    def __init__(self, message: str = "", *, param: str | None = None, retry_after_sec: int | None = None) -> None:
        super().__init__(message, param=param, retry_after_sec=retry_after_sec)
        self.is_retryable = retry_after_sec is not None


class DeadlineExceededError(ServiceError, status=504, code="deadline_exceeded"):
    """The deadline, or the longest time of a request, has passed."""


class NumericalError(ServiceError, status=500, code="numerical_error"):
    """The network's output for an image was not finite."""
