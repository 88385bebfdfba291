"""The Redis server in use: a lone one, or the master of a set, as its sentinels name it.

While a set has two masters, a publisher may be at one and the listeners at the other. So a
publisher has its server named by most of the sentinels within the last ``SURE_SECONDS``, at the
time at which a broadcast is reported as taken. Who listens to a new master tells a gap again
``Listener.DOUBT_SECONDS`` later: by then nobody can be sure of the old one any more. What is
taken while most of the sentinels do not answer is remembered: if it turns out that it was the
wrong server, all listeners are made to tell a gap.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any

from redis import exceptions

from django_ws.pubsub.backends.redis.connection import connect
from django_ws.pubsub.backends.redis.listener import Listener, Look
from django_ws.pubsub.backends.redis.location import Location
from django_ws.pubsub.backends.redis.sentinels import (
    AsyncSentinels,
    Named,
    NoMaster,
    SyncSentinels,
)
from django_ws.pubsub.backends.redis.unsettled import Unsettled
from django_ws.pubsub.backends.redis_cluster.slots import Node

SURE_SECONDS = 3.0
CONNECT_SECONDS = 1.5  # for connecting to a master, which may be frozen

Topics = Iterable[str]


class LoneServer:
    """There is no other."""

    def __init__(self, location: Location) -> None:
        self._pool = location.pool()

    async def connect(self) -> Any:
        return await connect(self._pool)

    async def look(self, connection: Any) -> Look:
        return Look()


class Master:
    """As the sentinels name it."""

    def __init__(self, location: Location, sentinels: AsyncSentinels) -> None:
        self._location = location
        self._sentinels = sentinels
        self._unsettled = Unsettled()

    async def connect(self) -> Any:
        master = _master_of(await self._sentinels.ask())
        async with asyncio.timeout(CONNECT_SECONDS):
            return await connect(self._location.pool(master))

    async def look(self, connection: Any) -> Look:
        """Of the listener, now and then."""
        return _look(await self._sentinels.ask(), connection)

    async def is_left(self, connection: Any) -> bool:
        """Before publishing: whether another one is the master now."""
        return _is_left(await self._sentinels.ask(SURE_SECONDS), connection)

    async def confirm(self, connection: Any, topics: Topics) -> None:
        """After something was taken. Raises ``ConnectionError`` where it was the wrong server."""
        _confirm(await self._sentinels.ask(SURE_SECONDS), connection, topics, self._unsettled)

    def missed(self, connection: Any) -> Sequence[str]:
        """Topics whose listeners are to be told a gap through this server."""
        return _missed(self._sentinels.last, connection, self._unsettled)

    def settle(self, topics: Topics) -> None:
        """They are told."""
        self._unsettled.settle(topics)


class SyncMaster:
    """As ``Master``, for threads. ``end``, by time.monotonic(): when it must be over."""

    def __init__(self, location: Location, sentinels: SyncSentinels) -> None:
        self._location = location
        self._sentinels = sentinels
        self._unsettled = Unsettled()

    def connection(self, end: float) -> Any:
        """A new one, not opened yet."""
        master = _master_of(self._sentinels.ask(end))
        return self._location.sync_pool(master).make_connection()

    def is_left(self, connection: Any, end: float) -> bool:
        return _is_left(self._sentinels.ask(end, SURE_SECONDS), connection)

    def confirm(self, connection: Any, topics: Topics, end: float) -> None:
        _confirm(self._sentinels.ask(end, SURE_SECONDS), connection, topics, self._unsettled)

    def missed(self, connection: Any) -> Sequence[str]:
        return _missed(self._sentinels.last, connection, self._unsettled)

    def settle(self, topics: Topics) -> None:
        self._unsettled.settle(topics)


def _address_of(connection: Any) -> Node:
    return connection.host, connection.port


def _master_of(named: Named | None) -> Node:
    if named is None or not named.is_up:
        raise NoMaster
    return named.address


def _look(named: Named | None, connection: Any) -> Look:
    if named is None or not named.is_sure:
        return Look(is_sure=False)
    _refuse_another(named, connection)
    return Look(is_new=named.since < Listener.DOUBT_SECONDS + SURE_SECONDS)


def _is_left(named: Named | None, connection: Any) -> bool:
    return named is not None and named.is_sure and named.address != _address_of(connection)


def _refuse_another(named: Named | None, connection: Any) -> None:
    if _is_left(named, connection):
        raise exceptions.ConnectionError("the sentinels name another master by now")


def _confirm(named: Named | None, connection: Any, topics: Topics, unsettled: Unsettled) -> None:
    _refuse_another(named, connection)
    if named is not None and named.is_sure and named.asked_at >= time.monotonic() - SURE_SECONDS:
        return
    if not unsettled.add(topics, _address_of(connection)):
        raise exceptions.ConnectionError(
            f"most of the sentinels do not answer: broadcasts to {unsettled.MAX_TOPICS} topics "
            "may have gone to the wrong server already"
        )


def _missed(named: Named | None, connection: Any, unsettled: Unsettled) -> Sequence[str]:
    if not unsettled or named is None or not named.is_sure:
        return ()
    return unsettled.missed(_address_of(connection))
