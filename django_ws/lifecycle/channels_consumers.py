"""Classes that were consumers of Channels and have only changed their base class.

Nothing of theirs would be called: not ``connect`` with its permission check above all, so that
everybody got in.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from django_ws.signatures import signature, takes

_EVENTS = "the server's events are handled for you: "


def _takes_nothing(function: Callable[..., Any], *bound: str) -> bool:
    return takes(function, *bound)


def _takes_one(function: Callable[..., Any], *bound: str) -> bool:
    return takes(function, *bound, "argument")


def _takes_data(function: Callable[..., Any], *bound: str) -> bool:
    """``text_data=`` or ``bytes_data=``, as Channels names them; others may be anything's."""
    called = signature(function, follow_wrapped=False)
    if called is None:
        return False
    kinds = {each.kind for each in called.parameters.values()}
    return (
        not called.parameters.keys().isdisjoint({"text_data", "bytes_data"})
        or inspect.Parameter.VAR_KEYWORD in kinds
    )


# For each method of a consumer: whether one of this form is meant, and what to write instead.
METHODS: dict[str, tuple[Callable[..., bool], str]] = {
    "connect": (
        _takes_nothing,
        "on_connect(self) before the accept, which may raise Reject, and on_open(self) after it",
    ),
    "receive": (
        _takes_data,
        "on_message(self, message), with codec = TextCodec() for plain text; on_bytes(self, data)",
    ),
    "receive_json": (_takes_one, "on_message(self, message)"),
    "disconnect": (_takes_one, "on_close(self), which finds the code in self.close_code"),
    "websocket_connect": (_takes_one, f"{_EVENTS}on_connect(self) and on_open(self)"),
    "websocket_receive": (_takes_one, f"{_EVENTS}on_message(self, message)"),
    "websocket_disconnect": (_takes_one, f"{_EVENTS}on_close(self)"),
}
GROUPS = "topics = [...], or get_topics(self)"


def consumer_fault(handler_class: type) -> str:
    """What the class has of a consumer, in words, and what to write instead; "" for a handler."""
    instead = []
    for name, (is_meant, cure) in METHODS.items():
        method = inspect.getattr_static(handler_class, name, None)
        if method is None:
            continue
        function = getattr(handler_class, name)
        bound = () if isinstance(method, staticmethod | classmethod) else ("self",)
        if callable(function) and is_meant(function, *bound):
            instead.append(f"{name}: {cure}")
    groups = inspect.getattr_static(handler_class, "groups", None)
    if isinstance(groups, list | tuple | set | frozenset):
        instead.append(f"groups: {GROUPS}")
    if not instead:
        return ""
    names = ", ".join(each.partition(":")[0] for each in instead)
    return (
        f"{handler_class.__module__}.{handler_class.__qualname__} is a WebSocketHandler and has "
        f"what consumers of Channels have ({names}): none of it would be used, and a permission "
        f"check in it would not run, so nobody may connect. Write instead: {'; '.join(instead)}. "
        "What is a method of your own needs another name."
    )
