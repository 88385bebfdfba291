"""Broadcasts through a Redis Cluster, sharded where its servers can."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError, ResponseError

from django_ws.pubsub.backends.base import PUBLISH_SECONDS, TOO_LATE, channel_of
from django_ws.pubsub.backends.redis_cluster_delivery import Delivery, Message
from django_ws.pubsub.backends.redis_cluster_listener import ClusterListener
from django_ws.pubsub.backends.redis_cluster_nodes import STEP_SECONDS, Nodes
from django_ws.pubsub.backends.redis_cluster_publisher import ClusterPublisher
from django_ws.pubsub.backends.redis_cluster_slots import Node
from django_ws.pubsub.backends.redis_listening import ListeningBackend
from django_ws.pubsub.backends.redis_location import abort, connect

__all__ = ["ClusterBackend", "ClusterPublisher"]


class _Outlet:
    """The connection that publishes to one node, for one caller at a time."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._lock = asyncio.Lock()
        self._connection: Any = None

    async def publish(self, delivery: Delivery, node: Node, batch: list[Message]) -> None:
        async with self._lock:
            try:
                async with asyncio.timeout(STEP_SECONDS):
                    connection = await self._connect()
            except (RedisError, OSError) as error:
                delivery.unreachable(node, batch, error)
                return
            try:
                await _publish(connection, delivery, node, batch)
            except (RedisError, OSError) as error:
                await self._drop()
                delivery.failed(node, batch, error)
            except asyncio.CancelledError:
                await self._drop()  # there may be answers that nobody has read
                delivery.failed(node, batch, TimeoutError(TOO_LATE))
                raise

    async def close(self) -> None:
        async with self._lock:
            await self._drop()

    async def _connect(self) -> Any:
        if self._connection is not None and not _is_open(self._connection):
            await self._drop()
        if self._connection is None:
            self._connection = await connect(self._pool)
        return self._connection

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await abort(connection)


def _is_open(connection: Any) -> bool:
    """Whether the server has neither closed it nor said something unasked.

    The system is asked, not asyncio: the event loop may not have looked at the socket yet.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(connection._writer.get_extra_info("socket"), selectors.EVENT_READ)
        return not (selector.select(0) or connection._reader.at_eof())


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
        self._listener = ClusterListener(self._nodes, prefix)
        self._outlets: dict[Node, _Outlet] = {}
        self._asking = asyncio.Lock()

    @property
    def server(self) -> str:
        return self._nodes.server

    async def connect(self) -> None:
        self._listener.start()

    async def close(self) -> None:
        await self._listener.close()
        for outlet in list(self._outlets.values()):
            await outlet.close()  # what is being published now is handed over

    async def publish_many(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """No message is ever sent twice, unless its node has refused it."""
        delivery = Delivery(self._nodes.slots, self.prefix, messages)
        with suppress(TimeoutError):
            async with asyncio.timeout(PUBLISH_SECONDS):
                while delivery.left and await self._has_slots(delivery):
                    await self._publish(delivery)
                    delivery.end_round()
                    if delivery.wait:
                        await asyncio.sleep(delivery.wait)
        delivery.end()

    def lane(self, topic: str) -> Hashable:
        """The node, as far as is known."""
        return self._nodes.slots.owner(channel_of(self.prefix, topic))

    async def _has_slots(self, delivery: Delivery) -> bool:
        """False where no node tells which slots are whose."""
        if not delivery.needs_slots:
            return True
        async with self._asking:  # the others wait for the answer
            return not delivery.needs_slots or await self._nodes.ask_slots(delivery.no_slots)

    async def _publish(self, delivery: Delivery) -> None:
        """One round."""
        rounds = []
        for node, batch in delivery.begin_round().items():
            if node not in self._outlets:
                self._outlets[node] = _Outlet(self._nodes.pool(node))
            rounds.append(self._outlets[node].publish(delivery, node, batch))
        if len(rounds) == 1:
            await rounds[0]
        else:
            await asyncio.gather(*rounds)
