"""Types that several files share: ASGI's callables and events, hooks, awaitables."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Awaitable, Callable, Container, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

# https://asgi.readthedocs.io/en/latest/specs/main.html
Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
ASGIApplication = Callable[[Scope, Receive, Send], Awaitable[None]]

if TYPE_CHECKING:

    class HandlerType(ABCMeta, Sequence[Any]):
        """What type checkers see as the class of a handler class; really it is ``type``.

        The stubs of Django let ``path()`` take views, and sequences of routes. So a handler class
        counts as such a sequence, and ``path("ws/", Handler)`` needs no override. ``ABCMeta``,
        so that a handler may be abstract, too.
        """

        # A handler may have attributes of these names.
        index: Any
        count: Any

else:
    HandlerType = type


class Subscriber(Protocol):
    """What the hub knows of a connection. Nothing here waits, and nothing raises.

    ``send`` takes an event for a handler with this ``codec``; None while ``deliver`` must be
    called instead, since something else comes first.

    ``write_frames`` takes what ``prepare`` has made of several messages, and returns whether it
    did; if not, each of them goes to ``send``. Both are None where the server has no frames to
    be shared (``connection/shared_frames.py``), and while ``send`` is None.
    """

    codec: Any
    send: Callable[[Event], None] | None
    prepare: Callable[[Sequence[str | bytes]], Any] | None
    write_frames: Callable[[Any], bool] | None

    @property
    def stands_for(self) -> Any:
        """The same object for all subscribers that stand for one connection."""
        ...

    def is_called(self, names: Container[str]) -> bool:
        """Whether the connection's id, or the name of one of its identities, is one of those."""
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

    def check_login(self) -> None:
        """The log-in of the connection may have ended."""
        ...


class Login(Protocol):
    """What the life of a connection knows of the log-in that it rests on."""

    user: Any

    @property
    def identities(self) -> Sequence[str]:
        """By what ``disconnect`` and a log-out find the connection: its user, its session."""
        ...

    def begin(self, end: Callable[[], None]) -> Awaitable[bool]:
        """Watch it from now on, and call ``end`` when it has ended. Whether it still holds."""
        ...

    def check(self) -> None:
        """Look soon whether it still holds."""
        ...

    def finish(self) -> None:
        """The connection is over."""
        ...
