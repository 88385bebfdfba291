"""Checks that no handler is a Channels consumer of which only the base class was changed."""

from __future__ import annotations

from collections.abc import Iterator

from django.core.checks import CheckMessage, Error, Warning  # noqa: A004  (Django's name)

from django_ws.checks.names import own_classes
from django_ws.checks.source import attributes_used, functions_of, parsed
from django_ws.handler import WebSocketHandler
from django_ws.lifecycle.hooks import HOOKS
from django_ws.signatures import signature

CODEC = {"decode_json": "decode(data)", "encode_json": "encode(message)"}


def check_consumer(handler_class: type[WebSocketHandler]) -> Iterator[CheckMessage]:
    if fault := handler_class._hooks.fault:
        what, _, instead = fault.partition(" Write instead: ")
        yield Error(what, hint=f"Write instead: {instead}", id="django_ws.E021")
    used = _names_used(handler_class)
    for each in own_classes(handler_class):
        for name, value in list(vars(each).items()):
            place = f"{each.__module__}.{each.__qualname__}.{name}"
            if name in CODEC:
                yield Warning(
                    f"{place} is a method of Channels' consumers, and is never called.",
                    hint=f"Give the handler a codec, an object with {CODEC[name]}: codec = ...",
                    id="django_ws.W021",
                )
            elif name not in used and name not in HOOKS and _takes_an_event(value):
                yield Warning(
                    f"{place} takes an event, as methods of Channels' consumers that a message of "
                    'this "type" calls: here none does.',
                    hint="Handle broadcasts in on_broadcast(topic, message), or leave the method "
                    "out: without on_broadcast they go to the client as they are. If you call it "
                    "yourself, silence this check.",
                    id="django_ws.W021",
                )


def _names_used(handler_class: type[WebSocketHandler]) -> set[str]:
    """What the methods of the class name: a method among it is called by them, not by messages."""
    names: set[str] = set()
    for each in own_classes(handler_class):
        for value in list(vars(each).values()):
            for function in functions_of(value):
                node = parsed(function)
                names |= set() if node is None else attributes_used(node)
    return names


def _takes_an_event(value: object) -> bool:
    for function in functions_of(value):
        called = signature(function, follow_wrapped=False)
        if called is not None and [*called.parameters][1:] == ["event"]:
            return True
    return False
