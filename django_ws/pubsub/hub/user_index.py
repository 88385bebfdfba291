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

    def add(self, owners: Iterable[str], subscriber: Subscriber) -> bool:
        """Let orders find this connection; whether none of its log-ins has ended."""
        for owner in owners:
            self._connections.setdefault(owner, set()).add(subscriber)
        self._forget()
        return self._ended.keys().isdisjoint(owners)

    def remove(self, owners: Iterable[str], subscriber: Subscriber) -> None:
        for owner in owners:
            self._connections[owner].discard(subscriber)
            if not self._connections[owner]:
                del self._connections[owner]

    def end(self, owner: str) -> None:
        """Remember it, if it is the name of a log-in."""
        if owner.startswith(_ONE_LOG_IN):
            self._forget()
            self._ended.pop(owner, None)
            self._ended[owner] = self._loop.time() + REMEMBERED_SECONDS

    def of(self, owner: str) -> set[Subscriber]:
        if owner == EVERYBODY:
            return self.everybody()
        return self._connections.get(owner, set())

    def everybody(self) -> set[Subscriber]:
        """A copy."""
        return set().union(*self._connections.values())

    def _forget(self) -> None:
        now = self._loop.time()
        while self._ended and self._ended[oldest := next(iter(self._ended))] <= now:
            del self._ended[oldest]
