"""The Redis backend (also for Valkey): one server, or a set with Sentinel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import redis

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends.base import Backend, error_of
from django_ws.pubsub.backends.breaker import Breaker
from django_ws.pubsub.backends.redis.base import ListeningBackend
from django_ws.pubsub.backends.redis.commands import answer_of, failure, is_silence, packed
from django_ws.pubsub.backends.redis.connection import abort, is_silent
from django_ws.pubsub.backends.redis.listener import Listener, Look, SetListener
from django_ws.pubsub.backends.redis.location import Location
from django_ws.pubsub.backends.redis.master import LoneServer, Master
from django_ws.pubsub.backends.redis.publisher import RedisPublisher
from django_ws.pubsub.backends.sequence import Sender

__all__ = ["RedisBackend", "RedisPublisher"]

Messages = Sequence[tuple[str, bytes]]
Answers = list[redis.ResponseError | None]  # None: taken
SETTLE_SECONDS = 1.0


class RedisBackend(ListeningBackend[Listener]):
    """One connection that listens, and one that publishes, for each event loop."""

    sync_publisher = RedisPublisher

    @classmethod
    def for_location(cls, location: Any, prefix: str, options: Mapping[str, Any]) -> Backend:
        """A ``ClusterBackend`` for a list of nodes. It would not have what a subclass adds: so a
        subclass is for one server."""
        if cls is RedisBackend and isinstance(location, (list, tuple)):
            from django_ws.pubsub.backends.redis_cluster.backend import ClusterBackend

            return ClusterBackend(location, prefix, options)
        return cls(location, prefix, options)

    def __init__(self, location: Any, prefix: str, options: Mapping[str, Any]) -> None:
        super().__init__(location, prefix, options)
        self._location = Location(location, options)
        self._site = self._location.site(prefix)
        self._server: LoneServer | Master
        self._master: Master | None = None  # as sentinels name it
        listener_class: type[Listener]
        if (sentinels := self._location.async_sentinels()) is None:
            self._server, listener_class = LoneServer(self._location), Listener
        else:
            self._server = self._master = Master(self._location, sentinels)
            listener_class = SetListener
        self._publishing: Any = None  # the connection that publishes
        self._losses = 0  # of the listener, when that was opened
        self._lock = asyncio.Lock()  # the connection that publishes: one at a time
        self._breaker = Breaker(self._location.server)
        self._listener = listener_class(
            self._location.server,
            self._site,
            self._server.connect,
            self._look,
            self._breaker.probe_soon,
        )
        self._sender = Sender()

    @property
    def server(self) -> str:
        return self._location.server

    async def connect(self) -> None:
        self._listener.start()

    async def close(self) -> None:
        await self._listener.close()
        async with self._lock:  # what is being published now is handed over
            await self._drop()

    async def publish_many(self, messages: Messages) -> None:
        """No command is ever sent twice, as in ``RedisPublisher``."""
        if not messages:
            return
        answers: Answers = []
        errors: dict[int, BroadcastError] = {}
        began = time.monotonic()
        try:
            is_probe = self._breaker.admit()
            async with asyncio.timeout(self._location.publish_seconds), self._lock:
                if is_probe:
                    await self._probe()
                else:
                    self._breaker.check()  # others have waited in vain meanwhile
                await self._publish(messages, answers)
        except Exception as error:
            lost = failure(self.server, self._location.publish_seconds, error)
            errors = dict.fromkeys(range(len(answers), len(messages)), lost)
            self._breaker.failed(error, lost.reason, is_silence=is_silence(error))
        except asyncio.CancelledError:
            # Nobody waits for it any more. Was that for want of an answer?
            if (waited := time.monotonic() - began) >= self._location.publish_seconds / 2:
                self._breaker.open(f"no answer in {waited:.1f} s", TimeoutError())
            raise
        else:
            self._breaker.close()
        for index, refusal in enumerate(answers):
            if refusal is not None:
                errors[index] = failure(self.server, self._location.publish_seconds, refusal)
        if errors:
            raise error_of(errors)

    async def _probe(self) -> None:
        """Whether the server answers again. Raises where it does not."""
        try:
            async with asyncio.timeout(Breaker.PROBE_SECONDS):
                connection = await self._open()
                await connection.send_command("PING", check_health=False)
                await answer_of(connection)
        except BaseException:
            await self._drop()
            raise

    async def _open(self) -> Any:
        await self._drop()
        self._losses = self._listener.losses
        self._publishing = await self._server.connect()
        return self._publishing

    async def _connection(self) -> Any:
        """To the right server."""
        connection = self._publishing
        if connection is None or not self._is_usable(connection):
            return await self._open()
        if self._master and await self._master.is_left(connection):
            return await self._open()
        return connection

    async def _publish(self, messages: Messages, answers: Answers) -> None:
        master = self._master
        try:
            connection = await self._connection()
            gaps = master.missed(connection) if master else ()
            with self._sender.call() as head:
                connection._writer.write(packed(self._site, head, messages, gaps))
                await connection._writer.drain()
                for _ in gaps:
                    await answer_of(connection)  # who may not be told so, is not
                for _ in messages:
                    answers.append(await answer_of(connection))
            if master:
                master.settle(gaps)
                try:
                    await master.confirm(connection, (topic for topic, _ in messages))
                except BaseException:
                    answers.clear()  # it took them, and nobody may have heard them
                    raise
        except BaseException:
            await self._drop()
            raise

    async def _look(self, connection: Any) -> Look:
        """Of the listener."""
        look = await self._server.look(connection)
        if self._master and self._master.missed(connection):
            with suppress(Exception):  # then later
                async with asyncio.timeout(SETTLE_SECONDS), self._lock:
                    await self._publish((), [])
        return look

    async def _drop(self) -> None:
        connection, self._publishing = self._publishing, None
        if connection is not None:
            await abort(connection)

    def _is_usable(self, connection: Any) -> bool:
        """Whether it is open, and the listener has not lost its own meanwhile: the server may be
        another one since then."""
        return (
            self._losses == self._listener.losses
            and connection.is_connected
            and is_silent(connection)
        )
