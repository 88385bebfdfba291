"""Which node of a Redis Cluster serves which channel."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError

Node = tuple[str, int]  # host and port


class Slots:
    """The map from slots to nodes, as last heard. May be read from any thread.

    ``is_stale``: it should be asked for before it is used. ``is_sharded``: the servers have
    sharded pub/sub; where they do not (Redis before 7), any node will do for every channel.
    """

    def __init__(self, nodes: list[Node], remap: Callable[[Node], Node] | None = None) -> None:
        self.is_stale = True
        self.is_sharded = True
        self._configured = nodes
        self._remap = remap or (lambda node: node)
        self._masters: list[Node] = []
        self._replicas: list[Node] = []
        self._node_of_slot: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._any: Node | None = None
        self._lost: set[Node] = set()

    def node_of(self, channel: bytes) -> Node | None:
        """None where no node serves it."""
        return self._node_of_slot[key_slot(channel)] if self.is_sharded else self._any

    def candidates(self) -> list[Node]:
        """Whom to ask for the map: known ones in random order, the configured, the lost."""
        known = [*self._masters, *self._replicas]
        nodes = dict.fromkeys([*random.sample(known, len(known)), *self._configured])
        return sorted(nodes, key=self._lost.__contains__)

    def learn(self, asked: Node, answer: Any, command: Any = (b"",)) -> None:
        """Take what ``asked`` has answered to CLUSTER SLOTS and COMMAND INFO SSUBSCRIBE."""
        node_of_slot: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        masters: set[Node] = set()
        replicas: set[Node] = set()
        for first, last, *nodes in answer:
            master, *others = [self._node(asked, host, port) for host, port, *_ in nodes]
            node_of_slot[first : last + 1] = [master] * (last + 1 - first)
            masters.add(master)
            replicas.update(others)
        self._node_of_slot = node_of_slot
        self._masters, self._replicas = sorted(masters), sorted(replicas)
        if self._any not in masters:
            self._any = random.choice(self._masters) if masters else None
        self._lost.discard(asked)  # the others stay the last to ask, until they answer
        self._lost &= masters.union(replicas, self._configured)
        self.is_sharded = command[0] is not None  # again: the servers may have been replaced
        self.is_stale = False

    def moved(self, asked: Node, error: AskError) -> None:
        """Take a MOVED. The map is stale then: seldom has one slot moved alone."""
        self._node_of_slot[error.slot_id] = self._node(asked, error.host, error.port)
        self.is_stale = True

    def lost(self, node: Node) -> None:
        """The node cannot be reached. What it served may have moved."""
        self.is_stale = True
        self._lost.add(node)
        if self._any == node:
            others = [master for master in self._masters if master != node]
            self._any = random.choice(others) if others else None

    def _node(self, asked: Node, host: str | bytes | None, port: int) -> Node:
        if isinstance(host, bytes):
            host = host.decode()
        return self._remap((host or asked[0], port))  # without a host it means its own
