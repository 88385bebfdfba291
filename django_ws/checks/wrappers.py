"""Finds out whether this application is wrapped in another ASGI application."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.handlers.asgi import ASGIHandler

from django_ws.asgi import WebSocketApplication
from django_ws.handler import WebSocketHandler

CHANNELS = "channels."
MAX_LOOKED_AT = 1000  # objects; a wrapper may hold on to anything


def serves_ours(application: Any) -> bool | None:
    """None where it cannot be known: something unknown may call it without holding it."""
    looked_at: list[Any] = []  # also keeps them alive, so that no id comes twice
    to_look_at = [application]
    is_certain = True
    while to_look_at:
        each = to_look_at.pop()
        if any(each is known for known in looked_at):
            continue
        if len(looked_at) == MAX_LOOKED_AT:
            return None
        looked_at.append(each)
        if isinstance(each, WebSocketApplication):
            return True
        if not isinstance(each, ASGIHandler) and not _is_of_channels(each):
            is_certain = False
        to_look_at.extend(_inside(each))
    return False if is_certain else None


def _is_of_channels(application: Any) -> bool:
    """Its routers, its middleware (a project's own, too) and what ``Consumer.as_asgi()`` gives
    hide nothing. Nor does a handler's class in one of its routes, which cannot be served there.
    """
    if isinstance(application, type):
        return issubclass(application, WebSocketHandler)
    return any(
        each.__module__.startswith(CHANNELS) for each in type(application).__mro__
    ) or hasattr(application, "consumer_class")


def _inside(application: Any) -> Iterable[Any]:
    """What it may hand a handshake on to."""
    if isinstance(application, ASGIStaticFilesHandler):
        return [application.application]
    if isinstance(application, ASGIHandler | type) or hasattr(application, "consumer_class"):
        return []
    if _is_of_channels(application):
        if hasattr(application, "application_mapping"):  # a ProtocolTypeRouter
            websocket = application.application_mapping.get("websocket")
            return [] if websocket is None else [websocket]
        if hasattr(application, "routes"):  # a URLRouter
            return [route.callback for route in application.routes]
    return _callables(_held_by(application))


def _held_by(thing: Any) -> Iterator[Any]:
    match thing:
        case partial():
            yield from (thing.func, *thing.args, *thing.keywords.values())
        case MethodType():
            yield from (thing.__func__, thing.__self__)
        case FunctionType():
            yield from (cell.cell_contents for cell in thing.__closure__ or ())
            yield from (
                thing.__globals__[name]
                for name in thing.__code__.co_names
                if isinstance(thing.__globals__.get(name), WebSocketApplication)
            )
    yield from getattr(thing, "__dict__", {}).values()
    for slot in getattr(type(thing), "__slots__", ()):
        yield getattr(thing, slot, None)


def _callables(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        match value:
            case Mapping():
                yield from _callables(value.values())
            case list() | tuple() | set():
                yield from _callables(value)
            case _ if callable(value) and not isinstance(value, type):
                yield value
