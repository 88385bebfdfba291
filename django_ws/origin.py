"""The origin check: which web pages may open a connection.

A browser sends cookies with every handshake, whatever page opens it, and CORS does not apply;
only the Origin header tells (RFC 6455, 10.2). The check runs before anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.core.signals import setting_changed
from django.dispatch import receiver

from django_ws import conf
from django_ws.conf.web_origin import DEFAULT_PORTS, canonical, is_listed, names_nobody, parsed
from django_ws.request import WebSocketRequest
from django_ws.types import Scope

MAX_CACHED_SIZE = 1024  # bytes of headers; nobody may fill the memory with longer ones
LOCAL_HOSTS = {"localhost", "127.0.0.1", "[::1]"}
FORWARDED_HOST = b"x-forwarded-host"


class Refusal(Exception):
    """Why a handshake is refused: the HTTP status, and what the log should say."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        self.message = message
        super().__init__(message)


class _Verdict(NamedTuple):
    """``refusal``: status and message, or None. ``cookies_count`` where it is allowed."""

    refusal: tuple[int, str] | None
    cookies_count: bool = True


def check_origin(scope: Scope) -> bool:
    """Raise ``Refusal`` for a bad Host header (400) or a foreign origin (403).

    A handshake without an Origin header does not come from a browser, and is allowed. Returns
    whether the cookies of the handshake count: not where its origin names nobody.
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
    judge = _judge if size <= MAX_CACHED_SIZE else _judge.__wrapped__
    verdict = judge(tuple(deciding), scope.get("scheme", "ws"), server)
    if verdict.refusal is not None:
        raise Refusal(*verdict.refusal)
    return verdict.cookies_count


def without_cookies(scope: Scope) -> Scope:
    """A copy that has none: nothing behind it can take a cookie for a log-in."""
    return {
        **scope,
        "headers": [item for item in scope["headers"] if item[0].lower() != b"cookie"],
    }


@lru_cache(maxsize=1)
def _deciding_names() -> frozenset[bytes]:
    """The origin, and the headers that ``get_host()`` and ``is_secure()`` may look at."""
    names = {b"origin", b"host", FORWARDED_HOST, b"x-forwarded-port"}
    if settings.SECURE_PROXY_SSL_HEADER:
        header = settings.SECURE_PROXY_SSL_HEADER[0]
        names.add(header.removeprefix("HTTP_").replace("_", "-").lower().encode())
    return frozenset(names)


@lru_cache(maxsize=1024)  # most handshakes come from a few pages
def _judge(
    headers: tuple[tuple[bytes, bytes], ...],
    scheme: str,
    server: tuple[()] | tuple[str, int],
) -> _Verdict:
    origins = [value.decode("latin-1") for name, value in headers if name == b"origin"]
    request = WebSocketRequest(
        {"path": "/", "headers": headers, "scheme": scheme, "server": server}
    )
    try:
        host = request.get_host()
    except DisallowedHost as error:
        return _Verdict((400, f"bad Host header: {str(error)[:300]}"))
    if not origins:
        return _Verdict(None)
    secure = request.is_secure()
    if _is_allowed(origins, host, secure):
        return _Verdict(None, not any(map(names_nobody, origins)))
    forwarded = [value.decode("latin-1") for name, value in headers if name == FORWARDED_HOST]
    message = (
        f"the origin {', '.join(map(repr, origins))[:200]} may not open sockets on {host[:200]!r}. "
        f"{_cure(origins, host, secure, forwarded)}"
    )
    return _Verdict((403, message))


def _is_allowed(origins: Sequence[str], host: str, secure: bool) -> bool:
    allowed = conf.get().ws_allowed_origins
    if allowed is not None and "*" in allowed:
        return True
    if len(origins) != 1:
        return False  # no browser does that
    [origin] = origins
    match = parsed(origin)
    if allowed is not None:
        is_any = match is not None or names_nobody(origin)
        return is_any and any(is_listed(origin, listed) for listed in allowed)
    if match is None:
        return False
    scheme = match["scheme"].lower()
    if scheme in DEFAULT_PORTS:  # the site has no pages of other schemes
        if canonical(origin) == canonical(f"{scheme}://{host}"):
            return scheme == "https" or not secure
        if settings.DEBUG and match["host"].lower() in LOCAL_HOSTS:
            return True
    trusted: Any = settings.CSRF_TRUSTED_ORIGINS or ()
    return any(isinstance(listed, str) and is_listed(origin, listed) for listed in trusted)


def _cure(origins: Sequence[str], host: str, secure: bool, forwarded: Sequence[str]) -> str:
    """What to do if the page is the site's. Each is tested by doing it."""
    if len(origins) != 1:
        return "There is more than one Origin header: let the proxy pass on what it gets."
    [origin] = origins
    if parsed(origin) is None and not names_nobody(origin):
        return "It is not an origin of a page, and no list of origins can name it."
    if conf.get().ws_allowed_origins is not None:
        return "If it is a page of yours, add it to WS_ALLOWED_ORIGINS."
    scheme = origin.partition("://")[0].lower()
    own = repr(f"https://{host[:200]}") if secure else f"{f'http://{host[:200]}'!r} or https"
    if names_nobody(origin):
        return (
            "Any file, and any page in a sandbox, has it. If your app sends it, name it in "
            f"WS_ALLOWED_ORIGINS (with your own, {own}), and let it log in by a token or ticket: "
            "its cookies do not count."
        )
    if secure and canonical(origin) == canonical(f"http://{host}"):
        return f"The page came without TLS, and this handshake with it: load it from {own}."
    may_be_own = scheme == "https" or (scheme == "http" and not secure)
    named = [canonical(f"{scheme}://{name}") for name in forwarded]
    if may_be_own and named == [canonical(origin)]:
        return (
            "The header X-Forwarded-Host names it. If that is your proxy's, set "
            "USE_X_FORWARDED_HOST = True, or let the proxy pass Host on."
        )
    return (
        "If it is a page of yours, add it to CSRF_TRUSTED_ORIGINS or WS_ALLOWED_ORIGINS (there "
        f"with your own, {own}). If it is this site's, let the proxy pass Host on."
    )


@receiver(setting_changed)
def _forget(**kwargs: Any) -> None:
    _judge.cache_clear()
    _deciding_names.cache_clear()
