"""Publishing to Redis from sync code, in any thread: to one server, or to a set with Sentinel."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from queue import Empty, LifoQueue
from typing import Any

import redis

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends.base import SyncPublisher
from django_ws.pubsub.backends.breaker import Breaker, NotTried
from django_ws.pubsub.backends.redis.commands import failure, is_silence, packed
from django_ws.pubsub.backends.redis.connection import connect_sync
from django_ws.pubsub.backends.redis.location import Location
from django_ws.pubsub.backends.redis.master import SyncMaster
from django_ws.pubsub.backends.sequence import Sender

Messages = Sequence[tuple[str, bytes]]


class _Slot:
    """A place for one connection."""

    def __init__(self, location: Location, master: SyncMaster | None) -> None:
        self._location = location
        self._master = master  # as sentinels name it
        self.connection: Any = None

    def open(self, end: float) -> None:
        """Have a connection to the right server."""
        if self.connection is None or not self._is_usable(end):
            self.close()
            self.connection = (
                self._master.connection(end)
                if self._master
                else self._location.sync_pool().make_connection()
            )
            connect_sync(self.connection, max(end - time.monotonic(), 0.1))

    def _is_usable(self, end: float) -> bool:
        """Whether it is open, and the server has neither closed it nor said something unasked, and
        is still the right one."""
        try:
            if self.connection._sock is None or self.connection.can_read():
                return False
        except redis.RedisError:
            return False
        return self._master is None or not self._master.is_left(self.connection, end)

    def close(self) -> None:
        if self.connection is not None:
            self.connection.disconnect()

    def ask(self, commands: bytes, number: int, end: float, optional: int = 0) -> None:
        """Send, and wait for ``number`` answers. Raises the first that is an error, unless it is
        among the first ``optional`` ones."""
        self._limit(end)
        self.connection.send_packed_command([commands], check_health=False)
        for index in range(number):
            self._limit(end)
            try:
                self.connection.read_response()
            except redis.ResponseError:
                if index >= optional:
                    raise

    def _limit(self, end: float) -> None:
        if (left := end - time.monotonic()) <= 0:
            raise TimeoutError
        self.connection._sock.settimeout(left)


class _Process:
    """What belongs to one process: a forked child starts afresh."""

    def __init__(self, location: Location) -> None:
        self.free: LifoQueue[_Slot | None] = LifoQueue()  # None: not opened yet
        for _ in range(location.max_connections):
            self.free.put(None)
        self.breaker = Breaker(location.server)
        self.sender = Sender()
        sentinels = location.sync_sentinels()
        self.master = None if sentinels is None else SyncMaster(location, sentinels)
        self._is_closed = False

    def give_back(self, slot: _Slot | None) -> None:
        self.free.put(slot)
        if self._is_closed:
            self.close()

    def close(self) -> None:
        """Those in use are closed as soon as they are given back."""
        self._is_closed = True
        slots = []
        with suppress(Empty):
            while True:
                slots.append(self.free.get_nowait())
        for slot in slots:
            if slot is not None:
                slot.close()
            self.free.put(slot)  # for a thread that waits for one already


class RedisPublisher(SyncPublisher):
    """Publishes from threads, over at most ``max_connections`` connections (OPTIONS).

    No command is ever sent twice: a connection that the server has closed meanwhile is
    replaced before it is used, and one that fails while it is used is a ``BroadcastError``.
    """

    @classmethod
    def for_location(cls, location: Any, prefix: str, options: Mapping[str, Any]) -> SyncPublisher:
        """A ``ClusterPublisher`` for a list of nodes, as in ``RedisBackend``."""
        if cls is RedisPublisher and isinstance(location, (list, tuple)):
            from django_ws.pubsub.backends.redis_cluster.publisher import ClusterPublisher

            return ClusterPublisher(location, prefix, options)
        return cls(location, prefix, options)

    def __init__(self, location: Any, prefix: str, options: Mapping[str, Any]) -> None:
        super().__init__(location, prefix, options)
        self._location = Location(location, options)
        self._site = self._location.site(prefix)
        self._processes: dict[int, _Process] = {}  # of this process alone, by its pid

    def publish(self, messages: Messages) -> None:
        if not messages:
            return
        location = self._location
        end = time.monotonic() + location.publish_seconds
        process = self._this_process()
        breaker = process.breaker
        try:
            is_probe = breaker.admit()
        except NotTried as error:
            raise failure(location.server, location.publish_seconds, error) from error
        try:
            slot = process.free.get(timeout=location.publish_seconds)
        except Empty:
            reason = (
                f"all {location.max_connections} connections were busy for "
                f"{location.publish_seconds:g} s"
            )
            raise BroadcastError("broadcast", location.server, reason) from None
        try:
            slot = slot or _Slot(location, process.master)
            if is_probe:
                self._probe(slot)
            else:
                breaker.check()  # others have waited in vain meanwhile
            self._publish_over(process, slot, messages, end)
        except Exception as error:
            failed = failure(location.server, location.publish_seconds, error)
            breaker.failed(error, failed.reason, is_silence=is_silence(error))
            raise failed from error
        else:
            breaker.close()
        finally:
            process.give_back(slot)

    def close(self) -> None:
        self._this_process().close()
        self._processes = {}

    def _this_process(self) -> _Process:
        pid = os.getpid()
        process = self._processes.get(pid)
        if process is None:
            # After a fork the parent's connections are closed here (which the server does not
            # see) and remain open there.
            process = self._processes.setdefault(pid, _Process(self._location))
            self._processes = {pid: process}
        return process

    def _probe(self, slot: _Slot) -> None:
        """Whether the server answers again. Raises where it does not."""
        end = time.monotonic() + Breaker.PROBE_SECONDS
        slot.close()
        try:
            slot.open(end)
            slot.ask(b"*1\r\n$4\r\nPING\r\n", 1, end)
        except BaseException:
            slot.close()
            raise

    def _publish_over(self, process: _Process, slot: _Slot, messages: Messages, end: float) -> None:
        master = process.master
        try:
            slot.open(end)
            gaps = master.missed(slot.connection) if master else ()
            with process.sender.call() as head:
                commands = packed(self._site, head, messages, gaps)
                slot.ask(commands, len(gaps) + len(messages), end, optional=len(gaps))
            if master:
                master.settle(gaps)
                master.confirm(slot.connection, (topic for topic, _ in messages), end)
        except BaseException:
            slot.close()
            raise
