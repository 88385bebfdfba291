"""Logs, once, that a WebSocket handshake has arrived as an HTTP request, and why.

A WSGI server, or an ASGI server that cannot speak WebSocket, hands it to Django as a GET, and the
answer is a 404 without a word. Django announces each request by a signal, which is looked at.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from threading import Lock
from typing import Any

from django.core.signals import request_started

from django_ws.logs.printable import printable
from django_ws.types import Scope

logger = logging.getLogger("django.ws.request")

LIBRARIES = ("websockets", "wsproto")  # one of which uvicorn needs
WSGI = (
    "this process serves WSGI, which has no WebSockets. Serve the ASGI application of asgi.py: "
    'while developing by `manage.py runserver` with "django_ws" at the top of INSTALLED_APPS, '
    "otherwise by `manage.py runws` or any ASGI server."
)
NO_LIBRARY = (
    "the server has no library for WebSockets. "
    'Run: pip install "django-ws[server]" and start it again.'
)
NO_CONNECTION = (
    "its header Connection is %r. A proxy in front of the server must pass on `Connection: "
    "upgrade` too (docs/proxies.md)."
)
SWITCHED_OFF = (
    "the server speaks no WebSocket here. Start uvicorn without --ws none, or serve by "
    "`manage.py runws`."
)

_untold = Lock()  # taken, and never given back, by the first who tells


def connect() -> None:
    """Look at requests from now on. Calling it again does nothing."""
    if not _untold.locked():
        request_started.connect(_request_started, dispatch_uid="django_ws")


def _request_started(
    *, environ: Mapping[str, Any] | None = None, scope: Scope | None = None, **kwargs: Any
) -> None:
    if environ is not None:
        if environ.get("HTTP_UPGRADE", "").lower() == "websocket":
            _tell(str(environ.get("PATH_INFO", "")), WSGI)
    else:
        look_at(scope or {})


def look_at(scope: Scope) -> None:
    """At a request that an ASGI server has taken for that of a page."""
    if _untold.locked():
        return
    for name, value in scope.get("headers", ()):
        if name == b"upgrade" and value.lower() == b"websocket":
            _tell(scope["path"], _cause(scope))


def _cause(scope: Scope) -> str:
    values = [value for name, value in scope["headers"] if name == b"connection"]
    connection = b",".join(values).decode("latin-1")
    if "upgrade" not in connection.lower():
        return NO_CONNECTION % printable(connection)
    if not any(map(find_spec, LIBRARIES)):
        return NO_LIBRARY
    return SWITCHED_OFF


def _tell(path: str, cause: str) -> None:
    if not _untold.acquire(blocking=False):
        return  # another thread was first
    request_started.disconnect(dispatch_uid="django_ws")  # nothing is looked at any more
    logger.warning(
        "WebSocket %s: the handshake came as the request of a page: %s (Said once.)",
        printable(path),
        cause,
    )
