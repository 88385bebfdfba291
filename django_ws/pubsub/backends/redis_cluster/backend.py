"""Broadcasts through a Redis Cluster, sharded where its servers can."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError, ResponseError

from django_ws.pubsub.backends.base import channel_of
from django_ws.pubsub.backends.redis.base import ListeningBackend
from django_ws.pubsub.backends.redis.connection import abort, connect, is_silent
from django_ws.pubsub.backends.redis.location import site_of
from django_ws.pubsub.backends.redis_cluster.contact import Contact, LostContact
from django_ws.pubsub.backends.redis_cluster.delivery import Delivery, Message
from django_ws.pubsub.backends.redis_cluster.listener import ClusterListener
from django_ws.pubsub.backends.redis_cluster.nodes import Nodes
from django_ws.pubsub.backends.redis_cluster.publisher import ClusterPublisher
from django_ws.pubsub.backends.redis_cluster.slots import Node
from django_ws.pubsub.backends.sequence import Sender

__all__ = ["ClusterBackend", "ClusterPublisher"]


class _NodeConnection:
    """The connection that publishes to one node, for one caller at a time."""

    def __init__(self, node: Node, nodes: Nodes) -> None:
        self._node = node
        self._pool = nodes.pool(node)
        self._nodes = nodes
        self._lock = asyncio.Lock()
        self._connection: Any = None
        self._contact = Contact()

    async def publish(self, delivery: Delivery, batch: list[Message]) -> None:
        node = self._node
        async with self._lock:
            try:
                connection = await self._ready()
                self._contact.require()
            except LostContact as error:
                delivery.adrift(node, batch, error)
                return
            except (RedisError, OSError) as error:
                delivery.unreachable(node, batch, error)
                return
            sent_at = time.monotonic()
            try:
                await _publish(connection, delivery, node, batch)
            except (RedisError, OSError) as error:
                await self._drop()
                delivery.failed(node, batch, error)
            except asyncio.CancelledError:
                await self._drop()  # there may be answers that nobody has read
                if time.monotonic() - sent_at >= self._nodes.step_seconds:
                    self._nodes.breaker(node).open(str(delivery.too_late), delivery.too_late)
                delivery.failed(node, batch, delivery.too_late)
                raise
            else:
                await self._confirm(connection, delivery, batch)

    async def contact(self) -> Contact:
        """How the node stands with the others. Raises where it does not say."""
        async with self._lock:
            await self._ready(must_ask=True)
            return self._contact

    async def close(self) -> None:
        async with self._lock:
            await self._drop()

    async def _ready(self, *, must_ask: bool = False) -> Any:
        """A connection to the node, of which it is known how it stands with the others."""
        async with self._nodes.answering(self._node) as is_probe:
            if is_probe:
                await self._drop()
            connection = await self._connect()
            if is_probe or must_ask or not self._contact.is_recent():
                await self._ask(connection)
        return connection

    async def _confirm(self, connection: Any, delivery: Delivery, batch: list[Message]) -> None:
        """Where the answers took long: whether the node may still be relied upon."""
        try:
            if time.monotonic() > self._contact.until:
                async with self._nodes.answering(self._node):
                    await self._ask(connection)
                self._contact.require()
        except (RedisError, OSError) as error:
            delivery.doubted(self._node, batch, error)

    async def _ask(self, connection: Any) -> None:
        asked_at = time.monotonic()
        questions = self._contact.questions()
        try:
            await connection.send_packed_command(
                connection.pack_commands(questions), check_health=False
            )
            answers = [await _answer_of(connection) for _ in questions]
        except BaseException:
            await self._drop()
            raise
        self._contact = self._contact.after(asked_at, answers)

    async def _connect(self) -> Any:
        if self._connection is not None and not is_silent(self._connection):
            await self._drop()
        if self._connection is None:
            self._connection = await connect(self._pool)
        return self._connection

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await abort(connection)


async def _answer_of(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


async def _publish(connection: Any, delivery: Delivery, node: Node, batch: list[Message]) -> None:
    packed = connection.pack_commands(delivery.commands(batch))
    await connection.send_packed_command(packed, check_health=False)
    for message in batch:
        try:
            await connection.read_response()
            delivery.taken(message)
        except ResponseError as error:
            delivery.refused(node, message, error)


class ClusterBackend(ListeningBackend[ClusterListener]):
    """To each node one connection that listens and one that publishes, for each event loop;
    only to those that serve a topic.
    """

    sync_publisher = ClusterPublisher

    def __init__(self, location: Any, prefix: str, options: Mapping[str, Any]) -> None:
        super().__init__(location, prefix, options)
        self._nodes = Nodes(location, options)
        self._site = site_of(prefix)
        self._connections: dict[Node, _NodeConnection] = {}
        self._listener = ClusterListener(
            self._nodes, self._site, lambda node: self._connection_to(node).contact()
        )
        self._asking = asyncio.Lock()
        self._sender = Sender()

    @property
    def server(self) -> str:
        return self._nodes.server

    async def connect(self) -> None:
        self._listener.start()

    async def close(self) -> None:
        await self._listener.close()
        for connection in list(self._connections.values()):
            await connection.close()  # what is being published now is handed over

    async def publish_many(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """No message is ever sent twice, unless its node has refused it."""
        with self._sender.call() as head:
            seconds = self._nodes.publish_seconds
            delivery = Delivery(self._nodes.slots, self._site, messages, head, seconds)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while delivery.left and await self._has_slots(delivery):
                        await self._publish(delivery)
                        delivery.end_round()
                        if delivery.wait:
                            await asyncio.sleep(delivery.wait)
            delivery.end()

    def queue_of(self, topic: str) -> Hashable:
        """The node, as far as is known."""
        return self._nodes.slots.node_of(channel_of(self._site, topic))

    async def _has_slots(self, delivery: Delivery) -> bool:
        """False where no node tells which slots are whose."""
        if not delivery.needs_slots:
            return True
        async with self._asking:  # the others wait for the answer
            return not delivery.needs_slots or await self._nodes.ask_slots(delivery.no_slots)

    async def _publish(self, delivery: Delivery) -> None:
        """One round."""
        batches = delivery.begin_round()
        rounds = [
            self._connection_to(node).publish(delivery, batch) for node, batch in batches.items()
        ]
        if len(rounds) == 1:
            await rounds[0]
        else:
            await asyncio.gather(*rounds)

    def _connection_to(self, node: Node) -> _NodeConnection:
        if node not in self._connections:
            self._connections[node] = _NodeConnection(node, self._nodes)
        return self._connections[node]
