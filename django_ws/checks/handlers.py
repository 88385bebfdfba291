"""Checks that the hooks of a handler have the right parameters, and no misspelt names."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004  (Django's name)

from django_ws.checks.attributes import check_attributes
from django_ws.checks.consumers import check_consumer
from django_ws.checks.names import check_names
from django_ws.handler import WebSocketHandler
from django_ws.lifecycle.hooks import HOOKS
from django_ws.signatures import takes

ELSEWHERE = {"on_disconnect": "on_close", "on_receive": "on_message"}  # in other frameworks
PLAIN = {"may_subscribe", "unit_of_work"}  # never async def
INSTEAD_OF_YIELD = {
    **dict.fromkeys(("authorize", "may_subscribe"), "Return True or False instead of yield."),
    "authenticate_first": "Return the Login or None instead of yield.",
    "get_topics": "Return the topics in a list instead of yield.",
    "unit_of_work": "Put @contextlib.contextmanager above it.",
}
SIMILAR = 0.8  # of 1.0; below that it is rather a method of the project's own


def check_handler(handler_class: type[WebSocketHandler]) -> Iterator[CheckMessage]:
    """Everything that can be seen on the class without making a connection."""
    place = f"{handler_class.__module__}.{handler_class.__qualname__}"
    if not takes(handler_class, "connection", "request", "args", "kwargs"):
        yield Error(
            f"{place}.__init__ does not take what it is called with.",
            hint="Write __init__(self, *args, **kwargs) and call super().__init__(*args, "
            "**kwargs) first; or prepare things in on_connect instead.",
            id="django_ws.E013",
        )
    for name, arguments in HOOKS.items():
        hook = inspect.getattr_static(handler_class, name)
        if hook is not inspect.getattr_static(WebSocketHandler, name):
            yield from _check_hook(handler_class, hook, f"{place}.{name}", name, arguments)
    yield from _misspelt(handler_class, place)
    yield from check_attributes(handler_class, place)
    yield from check_names(handler_class)
    yield from check_consumer(handler_class)


def _check_hook(
    handler_class: type[WebSocketHandler],
    hook: Any,
    place: str,
    name: str,
    arguments: tuple[str, ...],
) -> Iterator[CheckMessage]:
    plain = f"def {name}({', '.join(('self', *arguments))})"
    write = {
        **dict.fromkeys(PLAIN, f"Write {plain}."),
        "authorize": f"Write async {plain}.",  # as the mixins want it
    }.get(name, f"Write async {plain}, or def.")
    function = getattr(handler_class, name)
    if not callable(function):
        yield Error(
            f"{place} is {hook!r}, not a method.",
            hint=write,
            id="django_ws.E011",
        )
        return
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        yield Error(
            f"{place} contains a yield, so calling it would run nothing.",
            hint=INSTEAD_OF_YIELD.get(name, "Send with await self.send(message) instead of yield."),
            id="django_ws.E011",
        )
        return
    if name in PLAIN and iscoroutinefunction(function):
        yield Error(
            f"{place} is async def, and its result would be a coroutine.",
            hint=f"Write {plain}, and read what it needs in on_connect.",
            id="django_ws.E011",
        )
        return
    # Only what is a plain method gets self.
    is_bound = isinstance(hook, staticmethod | classmethod) or not hasattr(hook, "__get__")
    if not takes(function, *(() if is_bound else ("self",)), *arguments):
        called = ", ".join(("self", *arguments)[is_bound:]) or "nothing"
        yield Error(
            f"{place} cannot be called with what it gets: {called}.",
            hint=write,
            id="django_ws.E010",
        )


def _misspelt(handler_class: type[WebSocketHandler], place: str) -> Iterator[CheckMessage]:
    for name in dir(handler_class):
        if not name.startswith("on_") or name in HOOKS:
            continue
        likely = (
            [ELSEWHERE[name]]
            if name in ELSEWHERE
            else get_close_matches(name, HOOKS, n=1, cutoff=SIMILAR)
        )
        if likely:
            yield Warning(
                f"{place}.{name}: no hook has this name, so it is never called; {likely[0]} is "
                "meant?",
                hint=f"Rename it to {likely[0]}. If it is a method of your own, silence this check "
                "or name it without on_.",
                id="django_ws.W003",
            )
