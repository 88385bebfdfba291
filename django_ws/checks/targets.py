"""A route's target that is no handler class is an ASGI application."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

from django.core.checks import CheckMessage, Error
from django.views import View

from django_ws.checks.signatures import first_parameters, takes
from django_ws.handler import WebSocketHandler
from django_ws.routing import is_handler_class

NAME_THE_CLASS = (
    'Name the handler class itself, without calling it: path("ws/chat/", ChatHandler, name="chat").'
)
TARGETS = (
    "Name a WebSocketHandler class, or an ASGI application: a coroutine function "
    "app(scope, receive, send), or Consumer.as_asgi() of Channels."
)
VIEW = "Routes of pages belong into urls.py. For a WebSocket, write a WebSocketHandler class."
MAX_LAYERS = 100  # a wrapper may, by mistake, wrap itself


def check_target(place: str, target: Any) -> Iterator[CheckMessage]:
    """What is wrong with a target that is not a handler class."""
    inner = _inside(target)
    if is_handler_class(inner) or isinstance(inner, WebSocketHandler):
        name = (inner if is_handler_class(inner) else type(inner)).__qualname__
        yield Error(
            f"{place} leads to {target!r}, which wraps the handler "
            f"{'class' if is_handler_class(inner) else 'instance of'} {name}.",
            hint=f"{NAME_THE_CLASS} Decorators of views do not work on handlers: check the user in "
            "on_connect.",
            id="django_ws.E009",
        )
    elif _is_view(target):
        yield Error(
            f"{place} leads to {_name(target)}, a Django view.", hint=VIEW, id="django_ws.E008"
        )
    elif isinstance(target, type):
        hint = TARGETS
        if hasattr(target, "as_asgi"):
            hint = f"Write {target.__qualname__}.as_asgi()."
        yield Error(
            f"{place} leads to the class {_name(target)}, which is no WebSocketHandler.",
            hint=hint,
            id="django_ws.E008",
        )
    elif not takes(target, "scope", "receive", "send"):
        yield Error(
            f"{place} leads to {_name(target)}, which is no ASGI application: it does not take "
            "scope, receive and send.",
            hint=TARGETS,
            id="django_ws.E008",
        )


def _inside(target: Any) -> Any:
    """What stands behind partial objects, bound methods and decorators."""
    for _ in range(MAX_LAYERS):
        if isinstance(target, partial):
            target = target.func
        elif inspect.ismethod(target):
            target = target.__self__
        elif "__wrapped__" in getattr(target, "__dict__", ()):
            target = target.__wrapped__
        else:
            break
    return target


def _is_view(target: Any) -> bool:
    if isinstance(target, type):
        return issubclass(target, View)
    return hasattr(target, "view_class") or "request" in first_parameters(target)


def _name(target: Any) -> str:
    view = getattr(target, "view_class", target)
    if hasattr(view, "__qualname__"):
        return f"{view.__module__}.{view.__qualname__}"
    return repr(target)
