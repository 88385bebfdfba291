"""Checks that a server will find this application, and can speak WebSocket."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Warning  # noqa: A004  (Django's name)

from django_ws.checks.wrappers import serves_ours
from django_ws.conf.application_path import application_path
from django_ws.conf.importing import import_named
from django_ws.logs.causes import cause
from django_ws.missed_upgrades import LIBRARIES
from django_ws.routing.diagnostics import is_missing

OTHER_SERVERS = ("daphne", "granian")  # which bring their own
ENTRY_POINT = (
    "In asgi.py write: from django_ws import get_websocket_application; "
    "application = get_websocket_application()"
)


def check_application(**kwargs: Any) -> Iterator[CheckMessage]:
    """Import what servers import. A server does the same at its start."""
    path = application_path()
    place = "ASGI_APPLICATION: " if getattr(settings, "ASGI_APPLICATION", None) else ""
    if not place:
        # What startproject makes is told about at once, and not only when it has been named.
        yield Warning(
            f"ASGI_APPLICATION is not set: runserver and runws serve {path!r}, other commands "
            "cannot find the application that serves WebSockets.",
            hint=f"Set ASGI_APPLICATION = {path!r}.",
            id="django_ws.W004",
        )
    try:
        application = import_named(path)
    except Exception as error:
        if not place and is_missing(path.rpartition(".")[0], error):
            return
        yield Warning(
            f"{place}cannot import {path!r} ({cause(error)}).",
            hint=f"Name the variable in your asgi.py. {ENTRY_POINT}.",
            id="django_ws.W005",
        )
        return
    if serves_ours(application) is False:  # and not None: an unknown wrapper may have ours inside
        kind = f"{type(application).__module__}.{type(application).__qualname__}"
        yield Warning(
            f"{place}{path} is a {kind}, which does not serve the routes of ROOT_WS_URLCONF.",
            hint=f"{ENTRY_POINT}.",
            id="django_ws.W006",
        )


def check_websocket_library(**kwargs: Any) -> Iterator[CheckMessage]:
    if any(map(find_spec, LIBRARIES)):
        return
    if not find_spec("uvicorn") and any(map(find_spec, OTHER_SERVERS)):
        return
    yield Warning(
        "Neither websockets nor wsproto is installed: without one of them uvicorn takes a "
        "WebSocket handshake for the request of a page.",
        hint='Run: pip install "django-ws[server]"',
        id="django_ws.W007",
    )
