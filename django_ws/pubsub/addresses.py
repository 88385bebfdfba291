"""Single connections by their ids, for broadcasts to one of them in whichever process it is."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from typing import Protocol
from weakref import WeakKeyDictionary, WeakValueDictionary

from django_ws.pubsub.topics import LOOP_PREFIX, TOKEN_DIGITS
from django_ws.types import Subscriber


class Addressable(Protocol):
    """A connection whose id somebody has asked for."""

    def _as_subscriber(self) -> Subscriber | None:
        """None after its end."""
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

    def find(self, connection_id: str) -> Subscriber | None:
        """None where it is gone."""
        connection = self._connections.get(connection_id)
        return connection._as_subscriber() if connection is not None else None

    def __iter__(self) -> Iterator[tuple[str, Subscriber]]:
        """All that are left, with their ids."""
        for connection_id, connection in list(self._connections.items()):
            subscriber = connection._as_subscriber()
            if subscriber is not None:
                yield connection_id, subscriber


_all: WeakKeyDictionary[asyncio.AbstractEventLoop, Addresses] = WeakKeyDictionary()


def addresses_of(loop: asyncio.AbstractEventLoop) -> Addresses:
    addresses = _all.get(loop)
    return addresses if addresses is not None else _all.setdefault(loop, Addresses())
