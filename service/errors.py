"""Why a request gets no images: each reason with its code, its HTTP status and what the client may do."""

from __future__ import annotations

from collections.abc import Collection


class ServiceError(Exception):
    """A request cannot be served; the message is shown to the client."""

    status = 500
    code = "internal_error"
    """Stable: clients may compare it."""

    def __init__(self, message: str, *, param: str | None = None, retry_after_sec: int | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.retry_after_sec = retry_after_sec


class InvalidRequestError(ServiceError):
    """The fields do not fit the API or the model."""

    status, code = 422, "invalid_request"


class MalformedBodyError(ServiceError):
    """The body is not JSON."""

    status, code = 400, "malformed_json"


class UnauthorizedError(ServiceError):
    """There is no key, or not a right one."""

    status, code = 401, "invalid_api_key"


class NotFoundError(ServiceError):
    """There is no such path, model or request, or not for this key."""

    status, code = 404, "not_found"


class MethodNotAllowedError(ServiceError):
    """The path knows other methods."""

    status, code = 405, "method_not_allowed"

    def __init__(self, path: str, allowed: Collection[str]) -> None:
        self.allow = ", ".join(sorted(allowed))
        super().__init__(f"{path} knows {self.allow}")


class DuplicateIdError(ServiceError):
    """A request with this id is still open."""

    status, code = 409, "duplicate_request_id"


class CancelledError(ServiceError):
    """Somebody who may do so has cancelled the request."""

    status, code = 409, "cancelled"


class SlowBodyError(ServiceError):
    """The body did not come in time."""

    status, code = 408, "request_timeout"


class BodyTooLargeError(ServiceError):
    """The body is larger than the service reads."""

    status, code = 413, "body_too_large"


class UnsupportedMediaTypeError(ServiceError):
    """The body is something else than JSON."""

    status, code = 415, "unsupported_media_type"


class ClientGoneError(ServiceError):
    """Nobody reads the answer; but without one the layers around us would wait for it."""

    status, code = 499, "client_gone"


class QueueFullError(ServiceError):
    """There is as much work waiting as the service takes on."""

    status, code = 429, "queue_full"


class KeyShareError(ServiceError):
    """The key has as much work waiting as one key may have."""

    status, code = 429, "key_share_exceeded"


class TooManyConnectionsError(ServiceError):
    """More requests or streams are open than the service serves at once."""

    status, code = 429, "too_many_connections"


class NotReadyError(ServiceError):
    """The service is starting."""

    status, code = 503, "not_ready"


class DrainingError(ServiceError):
    """The service is about to stop, and takes on no new work."""

    status, code = 503, "draining"


class StoppedError(ServiceError):
    """The engine has stopped with this request open."""

    status, code = 503, "stopped"


class DeadlineUnattainableError(ServiceError):
    """The images could not be ready in time."""

    status, code = 503, "deadline_unattainable"


class DeadlineExceededError(ServiceError):
    """The images were not ready in time."""

    status, code = 504, "deadline_exceeded"


class NumericalError(ServiceError):
    """The network's answer for this image was not finite."""

    status, code = 500, "numerical_error"
