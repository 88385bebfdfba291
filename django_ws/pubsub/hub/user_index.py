"""Finds connections by their user or log-in, whatever topics they have joined."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from django_ws.pubsub.topics import CONTROL_TOPIC
from django_ws.types import Subscriber

REMEMBERED_SECONDS = 60.0  # longer than a ticket lives, and than a handshake takes
_ONE_LOG_IN = CONTROL_TOPIC[0]  # how the name of one begins: a user's topic never does
EVERYBODY = f"{_ONE_LOG_IN}everybody"  # stands for all of them


class UserIndex:
    """For one event loop, and its thread only.

    A log-in that has ended never comes back. That it has is remembered for a minute: Django
    tells of a log-out before it flushes the session, and a client that connects again in
    between, or with a ticket made before, would be let in.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._connections: dict[str, set[Subscriber]] = {}
        self._ended: dict[str, float] = {}  # until when to remember them, the oldest first

    def add(self, identities: Iterable[str], subscriber: Subscriber) -> bool:
        """Let orders find this connection; whether none of its log-ins has ended."""
        for identity in identities:
            self._connections.setdefault(identity, set()).add(subscriber)
        self._forget()
        return self._ended.keys().isdisjoint(identities)

    def remove(self, identities: Iterable[str], subscriber: Subscriber) -> None:
        for identity in identities:
            self._connections[identity].discard(subscriber)
            if not self._connections[identity]:
                del self._connections[identity]

    def end(self, identity: str) -> None:
        """Remember it, if it is the name of a log-in."""
        if identity.startswith(_ONE_LOG_IN):
            self._forget()
            self._ended.pop(identity, None)
            self._ended[identity] = self._loop.time() + REMEMBERED_SECONDS

    def of(self, identity: str) -> set[Subscriber]:
        if identity == EVERYBODY:
            return self.everybody()
        return self._connections.get(identity, set())

    def everybody(self) -> set[Subscriber]:
        """A copy."""
        return set().union(*self._connections.values())

    def _forget(self) -> None:
        now = self._loop.time()
        while self._ended and self._ended[oldest := next(iter(self._ended))] <= now:
            del self._ended[oldest]
