"""Publishing to a Redis Cluster from sync code, in any thread."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from redis.exceptions import RedisError, ResponseError

from django_ws.pubsub.backends.base import PUBLISH_SECONDS, SyncPublisher
from django_ws.pubsub.backends.redis_cluster_delivery import Delivery, Message
from django_ws.pubsub.backends.redis_cluster_nodes import STEP_SECONDS, Nodes
from django_ws.pubsub.backends.redis_cluster_slots import Node


class ClusterPublisher(SyncPublisher):
    """Publishes from threads, over at most ``max_connections`` (OPTIONS) to each node."""

    def __init__(self, location: Any, prefix: str, options: Mapping[str, Any]) -> None:
        super().__init__(location, prefix, options)
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._pid = os.getpid()
        self._nodes = Nodes(self.location, self.options)
        self._pools: dict[Node, Any] = {}
        self._lock = threading.Lock()  # for the pools
        self._asking = threading.Lock()  # one thread asks for the slots, the others wait for it

    def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        if self._pid != os.getpid():  # a lock may have been held in the parent as it forked
            self._start_afresh()
        end = time.monotonic() + PUBLISH_SECONDS
        delivery = Delivery(self._nodes.slots, self.prefix, messages)
        while delivery.left and self._has_slots(delivery, end):
            self._round(delivery, end)
            delivery.end_round()
            if delivery.left and time.monotonic() + delivery.wait + STEP_SECONDS > end:
                break
            time.sleep(delivery.wait)
        delivery.end()

    def close(self) -> None:
        with self._lock:
            pools, self._pools = self._pools, {}
        for pool in pools.values():
            pool.disconnect()

    def _round(self, delivery: Delivery, end: float) -> None:
        """Send to all nodes, then read all their answers."""
        with ExitStack() as connections:
            sent: list[tuple[Node, Any, list[Message]]] = []
            # In the same order in all threads: none waits for one that waits for it.
            for node, batch in sorted(delivery.begin_round().items()):
                try:
                    connection = connections.enter_context(self._connection(node))
                except (RedisError, OSError) as error:
                    delivery.unreachable(node, batch, error)
                    continue
                try:
                    commands = connection.pack_commands(delivery.commands(batch))
                    connection.send_packed_command(commands)
                    sent.append((node, connection, batch))
                except (RedisError, OSError) as error:
                    delivery.failed(node, batch, error)
            for node, connection, batch in sent:
                try:
                    self._read_answers(delivery, node, connection, batch, end)
                except (RedisError, OSError) as error:
                    connection.disconnect()
                    delivery.failed(node, batch, error)

    def _read_answers(
        self,
        delivery: Delivery,
        node: Node,
        connection: Any,
        batch: list[Message],
        end: float,
    ) -> None:
        for message in batch:
            if not connection.can_read(max(0.0, end - time.monotonic())):
                raise TimeoutError("no answer")
            try:
                connection.read_response()
                delivery.taken(message)
            except ResponseError as error:
                delivery.refused(node, message, error)

    @contextmanager
    def _connection(self, node: Node) -> Iterator[Any]:
        with self._lock:
            pool = self._pools.get(node)
            if pool is None:
                pool = self._pools[node] = self._nodes.sync_pool(node)
        connection = pool.get_connection()
        try:
            yield connection
        except BaseException:
            connection.disconnect()  # there may be answers that nobody has read
            raise
        finally:
            pool.release(connection)

    def _has_slots(self, delivery: Delivery, end: float) -> bool:
        """Ask one node after the other. False if none answers in time."""
        if not delivery.needs_slots:
            return True
        if not self._asking.acquire(timeout=max(0.0, end - time.monotonic())):
            return False
        try:
            if not delivery.needs_slots:  # another thread has asked meanwhile
                return True
            for node in self._nodes.slots.candidates():
                if time.monotonic() + STEP_SECONDS > end:
                    break
                try:
                    with self._connection(node) as connection:
                        connection.send_command("CLUSTER", "SLOTS")
                        slots = connection.read_response()
                        connection.send_command("COMMAND", "INFO", "SSUBSCRIBE")
                        self._nodes.slots.learn(node, slots, connection.read_response())
                except (RedisError, OSError) as error:
                    delivery.no_slots(node, error)
                else:
                    return True
            return False
        finally:
            self._asking.release()
