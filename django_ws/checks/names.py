"""Checks that a handler overrides and assigns only names that are meant for it."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from types import FunctionType

from django.core.checks import CheckMessage, Error, Warning  # noqa: A004  (Django's name)

from django_ws.checks.attributes import ATTRIBUTES
from django_ws.checks.source import assignments, attributes_used, functions_of, parsed
from django_ws.handler import WebSocketHandler
from django_ws.lifecycle.hooks import HOOKS
from django_ws.lifecycle.read_only import is_read_only

# What the instances have besides, which no look at the class shows.
INSTANCE_ATTRIBUTES = {
    "_connection", "_id", "_is_addressed", "_life", "_open_topics", "_rate_limited", "_request",
    "args", "kwargs",
}  # fmt: skip
# Class attributes for setting: those with a check of their values, and some without.
SETTABLE = {
    *ATTRIBUTES, "PROCESS_CANCEL_ERRORS", "concurrent_broadcasts", "first_message_seconds",
    "topics", "using",
}  # fmt: skip
OWN = {
    name
    for name in {*dir(WebSocketHandler), *INSTANCE_ATTRIBUTES}
    if not name.startswith("__") and name not in HOOKS and name not in SETTABLE
}
READ_ONLY = {name for name, value in vars(WebSocketHandler).items() if is_read_only(value)}
LIBRARY = "django_ws"
SIMILAR = 0.9  # of 1.0; below that it is rather an attribute of the project's own

RENAME = "Give it another name."
MEANT = (
    " If it is meant: broadcasts that are passed on, and closes by the library itself, do not go "
    "through it; then silence this check."
)


def own_classes(handler_class: type[WebSocketHandler]) -> Iterator[type]:
    """The classes of the user's that come before ``WebSocketHandler``."""
    mro = handler_class.__mro__
    for each in mro[: mro.index(WebSocketHandler)]:
        if each.__module__.partition(".")[0] != LIBRARY:
            yield each


def check_names(handler_class: type[WebSocketHandler]) -> Iterator[CheckMessage]:
    # A name that a class of the user defines itself may be set: that it overrides is told already.
    redefined = {name for each in own_classes(handler_class) for name in vars(each)}
    for each in own_classes(handler_class):
        place = f"{each.__module__}.{each.__qualname__}"
        for name in sorted(OWN & vars(each).keys() - {"_hooks"}):  # each class has its own
            yield _overridden(f"{place}.{name}", name)
        for value in list(vars(each).values()):
            for function in functions_of(value):
                yield from _assigned(place, function, redefined)
        yield from _without_the_check_below(handler_class, each, place)


def _overridden(place: str, name: str) -> CheckMessage:
    likely = get_close_matches(name, SETTABLE, n=1, cutoff=SIMILAR)
    if likely:
        return Warning(
            f"{place} overrides what every handler has under this name; {likely[0]} is meant?",
            hint=f"Rename it to {likely[0]}, or to something else if it is your own.",
            id="django_ws.W020",
        )
    if name.startswith("_"):
        return Error(
            f"{place} overrides what the library needs under this name.",
            hint=RENAME,
            id="django_ws.E020",
        )
    return Warning(
        f"{place} overrides what every handler has under this name.",
        hint=f"{RENAME}{MEANT}",
        id="django_ws.W020",
    )


def _assigned(place: str, function: FunctionType, redefined: set[str]) -> Iterator[CheckMessage]:
    node = parsed(function)
    if node is None:
        return
    where = f"{place}.{function.__name__}"
    found: dict[str, int] = {}  # each once, at its first line
    for name, line in assignments(node):
        if name not in redefined:
            found.setdefault(name, line)
    for name, line in found.items():
        if name in READ_ONLY:
            yield Error(
                f"{where} sets self.{name} (line {line}), which belongs to the connection: this "
                "raises AttributeError.",
                hint=RENAME,
                id="django_ws.E020",
            )
        elif name in OWN and name.startswith("_"):
            yield Error(
                f"{where} sets self.{name} (line {line}), which the library needs.",
                hint=RENAME,
                id="django_ws.E020",
            )
        elif name in OWN:
            yield Warning(
                f"{where} sets self.{name} (line {line}), a name that every handler has.",
                hint=f"{RENAME}{MEANT}",
                id="django_ws.W020",
            )


def _without_the_check_below(
    handler_class: type[WebSocketHandler], each: type, place: str
) -> Iterator[CheckMessage]:
    """An ``authorize`` above that of another class takes its place, unless it asks it."""
    mine = vars(each).get("authorize")
    mro = handler_class.__mro__
    below = [
        other
        for other in mro[mro.index(each) + 1 : mro.index(WebSocketHandler)]
        if "authorize" in vars(other)
    ]
    if mine is None or not below:
        return
    nodes = [parsed(function) for function in functions_of(mine)]
    known = [attributes_used(node) for node in nodes if node is not None]
    if known and len(known) == len(nodes) and "authorize" not in set().union(*known):
        yield Warning(
            f"{place}.authorize takes the place of {below[0].__qualname__}.authorize, which is "
            "not asked any more.",
            hint="Write return await super().authorize() in it, or silence this check.",
            id="django_ws.W025",
        )
