"""Authentication: API keys, or without keys only clients on the loopback interface.

Without keys two more ways in are closed. A page whose name an attacker's DNS server resolves to 127.0.0.1 (DNS
rebinding) has its own name in the Host header; and what a proxy on this machine forwards comes from another one.
"""

import hashlib
import hmac
import ipaddress
import re

from starlette.datastructures import Headers
from starlette.types import Scope

from service.errors import HostNotAllowedError, UnauthorizedError
from service.settings import Settings

PUBLIC_PATHS = frozenset(
    {"/", "/livez", "/readyz", "/healthz", "/metrics", "/openapi.json", "/schema.json", "/playground"}
)
"""Paths that are answered without a key; they reveal nothing about requests."""
ANONYMOUS = "anonymous"
LOOPBACK = re.compile(r"(?:[a-z0-9-]+\.)*localhost|127(?:\.\d{1,3}){3}|\[::1\]")
FORWARDING = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
HINT = "set FOUNDRY_API_KEYS, or FOUNDRY_ALLOW_ANONYMOUS=1 to serve anybody"


def owner_of(scope: Scope, settings: Settings) -> str:
    """The client that a request belongs to: the first 12 hex digits of its key's SHA-256, or "anonymous".

    Raises:
        UnauthorizedError: the key is missing or wrong, or there are no keys and the request is not local.
        HostNotAllowedError: there are no keys, and the request was not made to one of this machine's names.
    """
    if scope["path"] in PUBLIC_PATHS:
        return ANONYMOUS
    headers = Headers(scope=scope)
    if not settings.key_digests:
        if not settings.allow_anonymous:
            _check_local(scope, headers, settings)
        return ANONYMOUS
    scheme, _, key = headers.get("authorization", "").partition(" ")
    digest = hashlib.sha256(key.strip().encode()).digest()
    # All keys are compared, so that the time does not depend on which one matches.
    matches = [hmac.compare_digest(digest, known) for known in settings.key_digests]
    if scheme.lower() != "bearer" or not any(matches):
        raise UnauthorizedError("send a valid API key: Authorization: Bearer KEY")
    return digest.hex()[:12]


def _check_local(scope: Scope, headers: Headers, settings: Settings) -> None:
    # No other machine can reach a Unix socket or a loopback address.
    server = scope.get("server")
    is_local = server is None or ipaddress.ip_address(server[0]).is_loopback
    if not is_local or any(name in headers for name in FORWARDING):
        raise UnauthorizedError(f"the service has no API keys and answers only requests from its own machine; {HINT}")
    host = headers.get("host", "localhost").lower()
    name = re.sub(r":\d*$", "", host)
    if not (server is None or LOOPBACK.fullmatch(name) or settings.host_names & {host, name}):
        message = (
            f"Host: should be a name of the loopback interface or of FOUNDRY_ALLOWED_HOSTS (got {host}); or {HINT}"
        )
        raise HostNotAllowedError(message)
