"""Broadcasts through Redis (or Valkey): one server, a set with Sentinel, or a Cluster."""

from __future__ import annotations

import asyncio
import os
import selectors
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, LifoQueue
from typing import Any

import redis

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends.base import (
    PUBLISH_SECONDS,
    SyncPublisher,
    channel_of,
    error_of,
)
from django_ws.pubsub.backends.redis_listener import Listener
from django_ws.pubsub.backends.redis_listening import ListeningBackend
from django_ws.pubsub.backends.redis_location import (
    Location,
    abort,
    cause,
    connect,
    connect_sync,
    is_right_server,
    is_right_server_sync,
)


def _packed(prefix: str, messages: Sequence[tuple[str, bytes]]) -> bytes:
    """The PUBLISH commands for (topic, data) pairs, as they go over the wire."""
    commands = []
    for topic, data in messages:
        channel = channel_of(prefix, topic)
        commands.append(
            b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
            % (len(channel), channel, len(data), data)
        )
    return commands[0] if len(commands) == 1 else b"".join(commands)


def _failure(server: str, error: Exception) -> BroadcastError:
    silent = isinstance(error, TimeoutError) and not str(error)
    reason = f"no answer in {PUBLISH_SECONDS:g} s" if silent else cause(error)
    failure = BroadcastError("broadcast", server, reason)
    failure.__cause__ = error
    return failure


async def _answer_of(connection: Any) -> redis.ResponseError | None:
    """What the server has against one message: the next may be taken all the same."""
    try:
        await connection.read_response()
    except redis.ResponseError as error:
        return error
    return None


class _Slot:
    """A place for one connection, with the pool that makes it."""

    MASTER_SECONDS = 15.0  # between two questions to the sentinels

    def __init__(self, location: Location) -> None:
        self.pool = location.sync_pool()
        self.connection = self.pool.make_connection()
        self._asked = time.monotonic()

    def is_usable(self) -> bool:
        """Whether it is open, and the server has neither closed it nor said something unasked."""
        try:
            if self.connection._sock is None or self.connection.can_read():
                return False
        except redis.RedisError:
            return False
        if time.monotonic() - self._asked < self.MASTER_SECONDS:
            return True
        self._asked = time.monotonic()
        return is_right_server_sync(self.pool, self.connection)


class _Slots:
    """The connections of one process."""

    def __init__(self, number: int) -> None:
        self.free: LifoQueue[_Slot | None] = LifoQueue()  # None: not opened yet
        for _ in range(number):
            self.free.put(None)
        self.is_closed = False

    def give_back(self, slot: _Slot | None) -> None:
        self.free.put(slot)
        if self.is_closed:
            self.close()

    def close(self) -> None:
        """Those in use are closed as soon as they are given back."""
        self.is_closed = True
        slots = []
        with suppress(Empty):
            while True:
                slots.append(self.free.get_nowait())
        for slot in slots:
            if slot is not None:
                slot.connection.disconnect()
            self.free.put(slot)  # for a thread that waits for one already


class RedisPublisher(SyncPublisher):
    """Publishes from threads, over at most ``max_connections`` connections (OPTIONS).

    No command is ever sent twice: a connection that the server has closed meanwhile is
    replaced before it is used, and one that fails while it is used is a ``BroadcastError``.
    """

    def __new__(cls, location: Any, prefix: str, options: Mapping[str, Any]) -> Any:
        if cls is RedisPublisher and isinstance(location, (list, tuple)):
            from django_ws.pubsub.backends.redis_cluster import ClusterPublisher

            return ClusterPublisher(location, prefix, options)
        return super().__new__(cls)

    def __init__(self, location: Any, prefix: str, options: Mapping[str, Any]) -> None:
        super().__init__(location, prefix, options)
        self._location = Location(location, options)
        self._slots: dict[int, _Slots] = {}  # of this process alone, by its pid

    def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        if not messages:
            return
        end = time.monotonic() + PUBLISH_SECONDS
        slots = self._slots_of_this_process()
        try:
            slot = slots.free.get(timeout=PUBLISH_SECONDS)
        except Empty:
            number = self._location.max_connections
            reason = f"all {number} connections were busy for {PUBLISH_SECONDS:g} s"
            raise BroadcastError("broadcast", self._location.server, reason) from None
        try:
            slot = slot or _Slot(self._location)
            _publish_over(slot, _packed(self.prefix, messages), len(messages), end)
        except Exception as error:
            raise _failure(self._location.server, error) from error
        finally:
            slots.give_back(slot)

    def close(self) -> None:
        self._slots_of_this_process().close()
        self._slots = {}

    def _slots_of_this_process(self) -> _Slots:
        pid = os.getpid()
        slots = self._slots.get(pid)
        if slots is None:
            # After a fork the parent's connections are closed here (which the server does not
            # see) and remain open there.
            slots = self._slots.setdefault(pid, _Slots(self._location.max_connections))
            self._slots = {pid: slots}
        return slots


def _publish_over(slot: _Slot, packed: bytes, number: int, end: float) -> None:
    """Send, and wait for ``number`` answers, until ``end``."""
    connection = slot.connection
    try:
        if not slot.is_usable():
            connection.disconnect()
            connect_sync(slot.pool, connection, max(end - time.monotonic(), 0.1))
        for step in range(-1, number):
            if (left := end - time.monotonic()) <= 0:
                raise TimeoutError
            connection._sock.settimeout(left)
            if step < 0:
                connection.send_packed_command([packed], check_health=False)
            else:
                connection.read_response()
    except BaseException:
        connection.disconnect()
        raise


class RedisBackend(ListeningBackend[Listener]):
    """One connection that listens, and one that publishes, for each event loop."""

    sync_publisher = RedisPublisher

    def __new__(cls, location: Any, prefix: str, options: Mapping[str, Any]) -> Any:
        if cls is RedisBackend and isinstance(location, (list, tuple)):
            from django_ws.pubsub.backends.redis_cluster import ClusterBackend

            return ClusterBackend(location, prefix, options)
        return super().__new__(cls)

    def __init__(self, location: Any, prefix: str, options: Mapping[str, Any]) -> None:
        super().__init__(location, prefix, options)
        self._location = Location(location, options)
        pool = self._location.pool()
        self._listener = Listener(
            self._location.server, prefix, partial(connect, pool), partial(is_right_server, pool)
        )
        self._pool = self._location.pool()
        self._publishing: Any = None  # the connection that publishes
        self._losses = 0  # of the listener, when that was opened
        self._lock = asyncio.Lock()  # the connection that publishes: one at a time

    @property
    def server(self) -> str:
        return self._location.server

    async def connect(self) -> None:
        self._listener.start()

    async def close(self) -> None:
        await self._listener.close()
        async with self._lock:  # what is being published now is handed over
            await self._drop()

    async def publish_many(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """No command is ever sent twice, as in ``RedisPublisher``."""
        if not messages:
            return
        answers: list[redis.ResponseError | None] = []  # None: taken
        errors: dict[int, BroadcastError] = {}
        try:
            async with asyncio.timeout(PUBLISH_SECONDS), self._lock:
                await self._publish(_packed(self.prefix, messages), len(messages), answers)
        except Exception as error:
            lost = _failure(self.server, error)
            errors = dict.fromkeys(range(len(answers), len(messages)), lost)
        for index, refusal in enumerate(answers):
            if refusal is not None:
                errors[index] = _failure(self.server, refusal)
        if errors:
            raise error_of(errors)

    async def _publish(
        self, packed: bytes, number: int, answers: list[redis.ResponseError | None]
    ) -> None:
        try:
            if self._publishing is not None and not self._is_usable(self._publishing):
                await self._drop()
            if self._publishing is None:
                self._losses = self._listener.losses
                self._publishing = await connect(self._pool)
            connection = self._publishing
            connection._writer.write(packed)
            await connection._writer.drain()
            for _ in range(number):
                answers.append(await _answer_of(connection))
        except BaseException:
            await self._drop()
            raise

    async def _drop(self) -> None:
        connection, self._publishing = self._publishing, None
        if connection is not None:
            await abort(connection)

    def _is_usable(self, connection: Any) -> bool:
        """Whether the server has neither closed it nor said something unasked, and the listener
        has not lost its own meanwhile: the server may be another one since then.

        The system is asked, not asyncio: the event loop may not have looked at the socket yet.
        """
        if self._losses != self._listener.losses or not connection.is_connected:
            return False
        with selectors.DefaultSelector() as selector:
            selector.register(connection._writer.get_extra_info("socket"), selectors.EVENT_READ)
            return not (selector.select(0) or connection._reader.at_eof())
