"""Authentication: API keys, or without keys only clients on the loopback interface."""

import hashlib
import hmac
import ipaddress

from starlette.datastructures import Headers
from starlette.types import Scope

from service.errors import UnauthorizedError
from service.settings import Settings

PUBLIC_PATHS = frozenset(
    {"/", "/livez", "/readyz", "/healthz", "/metrics", "/openapi.json", "/schema.json", "/playground"}
)
"""Answered without a key; they reveal nothing about requests."""
ANONYMOUS = "anonymous"


def owner_of(scope: Scope, settings: Settings) -> str:
    """The client that a request belongs to: the first 12 hex digits of its key's SHA-256, or "anonymous".

    Raises:
        UnauthorizedError: the key is missing or wrong, or there are no keys and the request is not local.
    """
    if scope["path"] in PUBLIC_PATHS:
        return ANONYMOUS
    if not settings.key_digests:
        # No other machine can reach a Unix socket or a loopback address.
        server = scope.get("server")
        if settings.allow_anonymous or server is None or ipaddress.ip_address(server[0]).is_loopback:
            return ANONYMOUS
        raise UnauthorizedError("the service has no API keys and therefore answers only requests from its own machine")
    scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
    digest = hashlib.sha256(key.strip().encode()).digest()
    # All keys are compared, so that the time does not depend on which one matches.
    matches = [hmac.compare_digest(digest, known) for known in settings.key_digests]
    if scheme.lower() != "bearer" or not any(matches):
        raise UnauthorizedError("send a valid API key: Authorization: Bearer KEY")
    return digest.hex()[:12]
