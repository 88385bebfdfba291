"""Publishing to a Redis Cluster from sync code, in any thread."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from redis.exceptions import RedisError, ResponseError

from django_ws.pubsub.backends.base import SyncPublisher
from django_ws.pubsub.backends.breaker import Breaker
from django_ws.pubsub.backends.redis.commands import is_silence
from django_ws.pubsub.backends.redis.location import cause, site_of
from django_ws.pubsub.backends.redis_cluster.contact import Contact, LostContact
from django_ws.pubsub.backends.redis_cluster.delivery import Delivery, Message
from django_ws.pubsub.backends.redis_cluster.nodes import Nodes
from django_ws.pubsub.backends.redis_cluster.slots import Node
from django_ws.pubsub.backends.sequence import Sender


class _NodePool:
    """The connections of a process that publish to one node."""

    def __init__(self, node: Node, nodes: Nodes) -> None:
        self._node = node
        self._nodes = nodes
        self.pool = nodes.sync_pool(node)
        self.breaker = nodes.breaker(node)
        self.contact = Contact()

    @contextmanager
    def connection(self) -> Iterator[Any]:
        if self.breaker.admit():
            self._probe()
        connection = self.pool.get_connection()
        try:
            yield connection
        except BaseException:
            connection.disconnect()  # there may be answers that nobody has read
            raise
        finally:
            self.pool.release(connection)

    def _probe(self) -> None:
        """Whether the node answers again. Raises where it does not."""
        connection = self._nodes.sync_connection(self._node, Breaker.PROBE_SECONDS / 2)
        try:
            connection.connect()
            connection.send_command("PING")
            connection.read_response()
        finally:
            connection.disconnect()
        self.breaker.close()

    def check(self, connection: Any) -> None:
        """Raises ``LostContact`` where nobody knows whether the node has been replaced."""
        if not self.contact.is_recent():
            self.ask(connection)
        self.contact.require()

    def ask(self, connection: Any) -> None:
        asked_at = time.monotonic()
        questions = self.contact.questions()
        connection.send_packed_command(connection.pack_commands(questions))
        answers = [_answer_of(connection) for _ in questions]
        self.contact = self.contact.after(asked_at, answers)

    def failed(self, error: Exception) -> None:
        self.breaker.failed(error, cause(error), is_silence=is_silence(error))


def _answer_of(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


class ClusterPublisher(SyncPublisher):
    """Publishes from threads, over at most ``max_connections`` (OPTIONS) to each node."""

    def __init__(self, location: Any, prefix: str, options: Mapping[str, Any]) -> None:
        super().__init__(location, prefix, options)
        self._site = site_of(prefix)
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._nodes = Nodes(self.location, self.options)
        self._sender = Sender()
        self._node_pools: dict[Node, _NodePool] = {}
        self._lock = threading.Lock()  # for the pools of the nodes
        self._asking = threading.Lock()  # one thread asks for the slots, the others wait for it
        self._pid = os.getpid()  # last: until then every thread starts afresh

    def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        if self._pid != os.getpid():  # a lock may have been held in the parent as it forked
            self._start_afresh()
        seconds = self._nodes.publish_seconds
        end = time.monotonic() + seconds
        with self._sender.call() as head:
            delivery = Delivery(self._nodes.slots, self._site, messages, head, seconds)
            while delivery.left and self._has_slots(delivery, end):
                self._round(delivery, end)
                delivery.end_round()
                ahead = delivery.wait + self._nodes.step_seconds
                if delivery.left and time.monotonic() + ahead > end:
                    break
                time.sleep(delivery.wait)
            delivery.end()

    def close(self) -> None:
        with self._lock:
            node_pools, self._node_pools = self._node_pools, {}
        for node_pool in node_pools.values():
            node_pool.pool.disconnect()

    def _node_pool(self, node: Node) -> _NodePool:
        with self._lock:
            if node not in self._node_pools:
                self._node_pools[node] = _NodePool(node, self._nodes)
            return self._node_pools[node]

    def _round(self, delivery: Delivery, end: float) -> None:
        """Send to all nodes, then read all their answers."""
        with ExitStack() as connections:
            sent: list[tuple[Node, Any, list[Message]]] = []
            # In the same order in all threads: none waits for one that waits for it.
            for node, batch in sorted(delivery.begin_round().items()):
                if connection := self._send(delivery, node, batch, connections):
                    sent.append((node, connection, batch))
            for node, connection, batch in sent:
                node_pool = self._node_pool(node)
                try:
                    self._read_answers(delivery, node, connection, batch, end)
                except (RedisError, OSError) as error:
                    connection.disconnect()
                    node_pool.failed(error)
                    delivery.failed(node, batch, error)
                    continue
                try:
                    if time.monotonic() > node_pool.contact.until:
                        node_pool.ask(connection)
                        node_pool.contact.require()
                except (RedisError, OSError) as error:
                    connection.disconnect()
                    delivery.doubted(node, batch, error)

    def _send(
        self, delivery: Delivery, node: Node, batch: list[Message], connections: ExitStack
    ) -> Any:
        """Returns the connection that it was sent over; None where it was not."""
        node_pool = self._node_pool(node)
        try:
            connection = connections.enter_context(node_pool.connection())
            node_pool.check(connection)
        except LostContact as error:
            delivery.adrift(node, batch, error)
            return None
        except (RedisError, OSError) as error:
            node_pool.failed(error)
            delivery.unreachable(node, batch, error)
            return None
        try:
            commands = connection.pack_commands(delivery.commands(batch))
            connection.send_packed_command(commands)
        except (RedisError, OSError) as error:
            node_pool.failed(error)
            delivery.failed(node, batch, error)
            return None
        return connection

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
                raise TimeoutError(f"no answer in {self._nodes.publish_seconds:g} s")
            try:
                connection.read_response()
                delivery.taken(message)
            except ResponseError as error:
                delivery.refused(node, message, error)

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
                if time.monotonic() + self._nodes.step_seconds > end:
                    break
                node_pool = self._node_pool(node)
                try:
                    with node_pool.connection() as connection:
                        connection.send_command("CLUSTER", "SLOTS")
                        slots = connection.read_response()
                        connection.send_command("COMMAND", "INFO", "SSUBSCRIBE")
                        self._nodes.slots.learn(node, slots, connection.read_response())
                except (RedisError, OSError) as error:
                    node_pool.failed(error)
                    delivery.no_slots(node, error)
                else:
                    return True
            return False
        finally:
            self._asking.release()
