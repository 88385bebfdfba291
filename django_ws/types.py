"""The shapes that several files share: ASGI's callables and events, hooks, awaitables."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

# https://asgi.readthedocs.io/en/latest/specs/main.html
Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
ASGIApplication = Callable[[Scope, Receive, Send], Awaitable[None]]


class Subscriber(Protocol):
    """What the hub knows of a connection. Nothing here waits, and nothing raises.

    ``send`` takes an event for a handler with this ``codec``; None while ``deliver`` must be
    called instead, since something else comes first.
    """

    codec: Any
    send: Callable[[Event], None] | None

    def is_called(self, connection_id: str) -> bool:
        """Whether that is the connection's id."""
        ...

    def deliver(self, broadcast: Any) -> None:
        """A ``Broadcast`` to a topic that it has joined."""
        ...

    def missed(self, topics: frozenset[str]) -> None:
        """Broadcasts to these topics may not have arrived."""
        ...

    def not_joined(self, topic: str) -> None:
        """The backend did not confirm the subscription: it is taken back."""
        ...

    def disconnect(self, code: int, reason: str) -> None: ...
