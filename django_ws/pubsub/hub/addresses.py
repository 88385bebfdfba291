"""Finds connections of this event loop by their id, which names the loop."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Protocol
from weakref import WeakValueDictionary

from django_ws.pubsub.topics import LOOP_PREFIX, TOKEN_DIGITS
from django_ws.threads.per_loop import PerLoop
from django_ws.types import Subscriber


class Addressable(Protocol):
    """A connection whose id somebody has asked for."""

    @property
    def _hears_gaps(self) -> bool: ...

    def _as_subscriber(self, *, for_message: bool) -> Subscriber | None:
        """None after its end, and where it takes no messages but only orders."""
        ...


class Addresses:
    """Those of one event loop. With its token the ids of all its connections begin, so that a
    broadcast to one of them goes to this loop alone.

    A connection is known once its id was asked for: until then nobody can name it, and it costs
    nothing. For any thread.
    """

    def __init__(self) -> None:
        self.token = secrets.token_hex(TOKEN_DIGITS // 2)
        self._connections: WeakValueDictionary[str, Addressable] = WeakValueDictionary()

    @property
    def topic(self) -> str:
        """What this loop's hubs listen to for their single connections."""
        return LOOP_PREFIX + self.token

    def new_id(self) -> str:
        return self.token + secrets.token_hex(16 - TOKEN_DIGITS // 2)

    def add(self, connection_id: str, connection: Addressable) -> None:
        self._connections[connection_id] = connection

    def find(self, connection_id: str, *, for_message: bool = True) -> Subscriber | None:
        """None where it is gone, or takes no messages."""
        connection = self._connections.get(connection_id)
        if connection is None:
            return None
        return connection._as_subscriber(for_message=for_message)

    def those_who_hear_gaps(self) -> Iterator[tuple[str, Subscriber]]:
        """With their ids."""
        for reference in self._connections.valuerefs():
            connection = reference()
            if connection is not None and connection._hears_gaps:
                subscriber = connection._as_subscriber(for_message=True)
                if subscriber is not None:
                    yield reference.key, subscriber


addresses_of = PerLoop(Addresses)
