"""The hooks of a handler class: which are overridden, and which of those are sync."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from asgiref.sync import iscoroutinefunction

from django_ws.lifecycle.channels_consumers import consumer_fault

# Every hook with the names of its arguments after self.
HOOKS: dict[str, tuple[str, ...]] = {
    "authenticate_first": ("message",),
    "authorize": (),
    "on_connect": (),
    "on_open": (),
    "on_message": ("message",),
    "on_bytes": ("data",),
    "on_text": ("text",),
    "on_close": (),
    "on_error": ("error",),
    "on_decode_error": ("error",),
    "on_invalid_message": ("error",),
    "on_rate_limited": (),
    "on_task_error": ("error",),
    "on_broadcast": ("topic", "message"),
    "on_broadcast_gap": ("topics",),
    "on_restart": (),
    "get_topics": (),
    "may_subscribe": ("topic",),
    "unit_of_work": (),
}
# Called from other tasks than the connection's own, which must wait for their turn:
TAKING_TURNS = {"on_broadcast", "on_broadcast_gap"}
# Never in a thread, even as a plain function:
IN_THE_LOOP = {"on_task_error", "get_topics", "may_subscribe"}


@dataclass(frozen=True, slots=True)
class Hooks:
    """Found once for each class; ``sync`` hooks run in a thread.

    ``fault``: why nobody may connect, where the class is no handler; "" otherwise.
    """

    overridden: frozenset[str]
    sync: frozenset[str]
    fault: str

    @property
    def takes_turns(self) -> bool:
        """Whether a hook may be called while another one of the same connection runs."""
        return not TAKING_TURNS.isdisjoint(self.overridden)


def hooks_of(handler_class: type, base: type) -> Hooks:
    """The hooks that ``handler_class`` overrides of those that ``base`` defines."""
    found: dict[str, Any] = {}
    for name in HOOKS:
        function = inspect.getattr_static(handler_class, name)
        if function is not vars(base)[name]:
            found[name] = function
    return Hooks(
        overridden=frozenset(found),
        sync=frozenset(
            name
            for name, function in found.items()
            if name not in IN_THE_LOOP
            and not iscoroutinefunction(getattr(function, "__func__", function))
        ),
        fault=consumer_fault(handler_class),
    )
