"""Describes what is wrong with a route, for the checks and for the first handshake."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, NamedTuple, TypeGuard

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.views import View

from django_ws.handler import WebSocketHandler
from django_ws.logs.causes import cause
from django_ws.signatures import first_parameters, takes

NAME_THE_CLASS = (
    'Name the handler class itself, without calling it: path("ws/chat/", ChatHandler, name="chat").'
)
TARGETS = (
    "Name a WebSocketHandler class, or an ASGI application: a coroutine function "
    "app(scope, receive, send), or Consumer.as_asgi() of Channels."
)
VIEW = "Routes of pages belong into urls.py. For a WebSocket, write a WebSocketHandler class."
WRITE = (
    'Write it, with urlpatterns = [path("ws/chat/", ChatHandler, name="chat")]; or run '
    '`python manage.py startws APP`, with "django_ws" in INSTALLED_APPS, which writes it and a '
    "first handler."
)
MAX_LAYERS = 100  # a wrapper may, by mistake, wrap itself


class Fault(NamedTuple):
    """``id`` is that of the system check, ``text`` says what is wrong, ``cure`` what to do."""

    id: str
    text: str
    cure: str

    def error(self) -> ImproperlyConfigured:
        return ImproperlyConfigured(f"{self.text} {self.cure}")


def is_handler_class(target: Any) -> TypeGuard[type[WebSocketHandler]]:
    return isinstance(target, type) and issubclass(target, WebSocketHandler)


def is_missing(module: str, error: Exception) -> bool:
    """Whether importing failed since the module itself, or a package above it, is not there."""
    return isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")


def import_fault(urlconf: str, error: Exception) -> Fault:
    """Why the module of the routes cannot be imported."""
    if is_missing(urlconf, error):
        if hasattr(settings, "ROOT_WS_URLCONF"):
            return Fault(
                "django_ws.E005", f"ROOT_WS_URLCONF: there is no module {urlconf!r}.", WRITE
            )
        return Fault(
            "django_ws.W002",
            f"There are no WebSocket routes yet: no module {urlconf!r}.",
            f"{WRITE} Routes elsewhere are named by the setting ROOT_WS_URLCONF.",
        )
    cure = "Correct what raises this; the module must be importable as any other."
    if isinstance(error, TypeError) and (
        # From path() for an instance, and from a handler class that is called.
        str(error).startswith("view must be") or "'connection', 'request', and 'args'" in str(error)
    ):
        cure = NAME_THE_CLASS
    elif isinstance(error, AttributeError) and is_handler_class(error.obj):
        cure = NAME_THE_CLASS  # as_view(), as_asgi()
    return Fault(
        "django_ws.E006",
        f"{urlconf}: the WebSocket routes cannot be imported ({cause(error)}).",
        cure,
    )


def target_fault(urlconf: str, route: str, target: Any) -> Fault | None:
    """What is wrong with a target that is not a handler class, judged without calling it."""
    place = f"{urlconf}: the route {route!r}"
    inner = _inside(target)
    if is_handler_class(inner) or isinstance(inner, WebSocketHandler):
        name = (inner if is_handler_class(inner) else type(inner)).__qualname__
        return Fault(
            "django_ws.E009",
            f"{place} leads to {target!r}, which wraps the handler "
            f"{'class' if is_handler_class(inner) else 'instance of'} {name}.",
            f"{NAME_THE_CLASS} Decorators of views do not work on handlers: check the user in "
            "on_connect.",
        )
    if _is_view(target):
        return Fault("django_ws.E008", f"{place} leads to {_name(target)}, a Django view.", VIEW)
    if isinstance(target, type):
        return Fault(
            "django_ws.E008",
            f"{place} leads to the class {_name(target)}, which is no WebSocketHandler.",
            f"Write {target.__qualname__}.as_asgi()." if hasattr(target, "as_asgi") else TARGETS,
        )
    if not takes(target, "scope", "receive", "send"):
        return Fault(
            "django_ws.E008",
            f"{place} leads to {_name(target)}, which is no ASGI application: it does not take "
            "scope, receive and send.",
            TARGETS,
        )
    return None


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
