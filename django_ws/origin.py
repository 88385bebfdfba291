"""Which web pages may open a socket: the check against cross-site WebSocket hijacking.

A browser sends cookies with every handshake, whatever page opens it, and CORS does not apply;
only the Origin header tells (RFC 6455, 10.2). The check runs before anything else.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils.http import is_same_domain

from django_ws import conf
from django_ws.request import WebSocketRequest
from django_ws.types import Scope

ORIGIN = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9_.-]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?",
    re.IGNORECASE | re.ASCII,
)
DEFAULT_PORTS = {"http": "80", "https": "443"}
MAX_CACHED_SIZE = 1024  # bytes of headers; nobody may fill the memory with longer ones
LOCAL_HOSTS = {"localhost", "127.0.0.1", "[::1]"}


class Refusal(Exception):
    """Why a handshake is refused: the HTTP status, and what the log should say."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        self.message = message
        super().__init__(message)


def check_origin(scope: Scope) -> None:
    """Raise ``Refusal`` for a bad Host header (400) or a foreign origin (403).

    A handshake without an Origin header does not come from a browser, and is allowed.
    """
    deciding_names = _deciding_names()
    deciding = []
    size = 0
    for name, value in scope["headers"]:
        name = name.lower()  # not every server does, though ASGI asks for it
        if name in deciding_names:
            deciding.append((name, value))
            size += len(value)
    server = tuple(scope.get("server") or ())
    verdict = _verdict if size <= MAX_CACHED_SIZE else _verdict.__wrapped__
    refusal = verdict(tuple(deciding), scope.get("scheme", "ws"), server)
    if refusal is not None:
        raise Refusal(*refusal)


@lru_cache(maxsize=1)
def _deciding_names() -> frozenset[bytes]:
    """The origin, and the headers that ``get_host()`` and ``is_secure()`` may look at."""
    names = {b"origin", b"host", b"x-forwarded-host", b"x-forwarded-port"}
    if settings.SECURE_PROXY_SSL_HEADER is not None:
        header, _ = settings.SECURE_PROXY_SSL_HEADER
        names.add(header.removeprefix("HTTP_").replace("_", "-").lower().encode())
    return frozenset(names)


@lru_cache(maxsize=1024)  # most handshakes come from a few pages
def _verdict(
    headers: tuple[tuple[bytes, bytes], ...],
    scheme: str,
    server: tuple[()] | tuple[str, int],
) -> tuple[int, str] | None:
    origins = [value.decode("latin-1") for name, value in headers if name == b"origin"]
    request = WebSocketRequest(
        {"path": "/", "headers": headers, "scheme": scheme, "server": server}
    )
    try:
        host = request.get_host()
    except DisallowedHost as error:
        return 400, f"bad Host header: {str(error)[:300]}"
    if not origins or _is_allowed(origins, host, request.is_secure()):
        return None
    cure = "CSRF_TRUSTED_ORIGINS or WS_ALLOWED_ORIGINS"
    if conf.get().ws_allowed_origins is not None:
        cure = "WS_ALLOWED_ORIGINS"
    return 403, (
        f"the origin {', '.join(map(repr, origins))[:200]} may not open sockets on {host[:200]!r}. "
        f"If it is a page of yours, add it to {cure}."
    )


def _is_allowed(origins: list[str], host: str, secure: bool) -> bool:
    allowed = conf.get().ws_allowed_origins
    if allowed is not None and "*" in allowed:
        return True
    if len(origins) != 1:
        return False  # no browser does that
    [raw] = origins
    if allowed is not None:
        return _canonical(raw) in {_canonical(item) for item in allowed}
    match = ORIGIN.fullmatch(raw)
    if match is None:
        return False
    origin = _canonical(raw)
    origin_scheme = match["scheme"].lower()
    if origin == _canonical(f"{origin_scheme}://{host}"):
        return origin_scheme == "https" or not secure
    if settings.DEBUG and match["host"].lower() in LOCAL_HOSTS:
        return True
    return any(_is_trusted(origin, item) for item in settings.CSRF_TRUSTED_ORIGINS)


def _is_trusted(origin: str, trusted: str) -> bool:
    """Django's rule for CSRF_TRUSTED_ORIGINS: ``https://*.`` allows the domain and below."""
    trusted = _canonical(trusted)
    if "://*." not in trusted:
        return origin == trusted
    scheme, _, domain = trusted.partition("://*")
    origin_scheme, _, host = origin.partition("://")
    return origin_scheme == scheme and is_same_domain(host, domain)


def _canonical(origin: str) -> str:
    """Lower case, without the scheme's default port."""
    origin = origin.lower()
    scheme, _, _ = origin.partition("://")
    return origin.removesuffix(f":{DEFAULT_PORTS.get(scheme, 'none')}")


@receiver(setting_changed)
def _forget(**kwargs: Any) -> None:
    _verdict.cache_clear()
    _deciding_names.cache_clear()
