"""A real Redis Cluster on this machine, that tests can harm."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Self

from tests.support.redis_server import Proxy, RedisServer, free_port, until

SLOTS = 16384


class RedisCluster:
    """``nodes`` are the masters in the order of their slots, then a replica of the first.

    The nodes agree that a node is dead after a second, and promote its replica soon after.
    ``config`` are further lines of every node's redis.conf. With ``has_proxies`` the nodes speak
    to each other through proxies, and each from an address of its own, so that one can be
    isolated from the others while its clients still reach it.
    """

    def __init__(
        self,
        *config: str,
        masters: int = 3,
        has_replica: bool = False,
        has_proxies: bool = False,
    ) -> None:
        self._bus_ports = [free_port() for _ in range(masters + has_replica)]
        self._proxies = [Proxy(port) for port in self._bus_ports] if has_proxies else []
        self.nodes = [
            RedisServer(
                "cluster-enabled yes",
                f"cluster-port {bus_port}",
                "cluster-node-timeout 1000",
                "cluster-replica-validity-factor 0",
                "repl-diskless-sync-delay 0",
                *self._lines_for_proxies(index),
                *config,
            )
            for index, bus_port in enumerate(self._bus_ports)
        ]
        self.masters = self.nodes[:masters]
        self._started = ExitStack()

    def _lines_for_proxies(self, index: int) -> list[str]:
        if not self._proxies:
            return []
        return [
            "cluster-announce-ip 127.0.0.1",
            f"cluster-announce-bus-port {self._proxies[index].port}",
            f"bind-source-addr {_source(index)}",
            "protected-mode no",  # which knows no loopback address but 127.0.0.1
        ]

    def isolate(self, node: RedisServer) -> None:
        """Cut a node off from the other nodes, not from its clients."""
        index = self.nodes.index(node)
        for other, proxy in enumerate(self._proxies):
            proxy.bar(*() if other == index else (_source(index),))

    def join_again(self) -> None:
        """End all isolation."""
        for proxy in self._proxies:
            proxy.unbar()

    @property
    def location(self) -> list[str]:
        """LOCATION for a backend."""
        return [f"redis://127.0.0.1:{node.port}" for node in self.nodes]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for proxy in self._proxies:
                stack.enter_context(proxy)
            for node in self.nodes:
                stack.enter_context(node)
            self._join()
            self._started = stack.pop_all()
        return self

    def mend(self) -> None:
        """All nodes run, and serve all slots."""
        self.join_again()
        for node in self.nodes:
            if node.process is None:
                node.start()
            elif node.state() == "T":
                node.thaw()
        self.until_ok()

    def __exit__(self, *error: object) -> None:
        self._started.close()

    def _join(self) -> None:
        for index, node in enumerate(self.nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
        for index, node in enumerate(self.masters):
            first, after = (
                index * SLOTS // len(self.masters),
                (index + 1) * SLOTS // len(self.masters),
            )
            node.ask("CLUSTER", "ADDSLOTSRANGE", first, after - 1)
        ports = [proxy.port for proxy in self._proxies] or self._bus_ports
        for node, bus_port in list(zip(self.nodes, ports, strict=True))[1:]:
            self.nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port, bus_port)
        until(self._is_met, "nodes that know each other")
        for node in self.nodes[len(self.masters) :]:
            node.ask("CLUSTER", "REPLICATE", self.id_of(self.nodes[0]))
        self.until_ok()

    def _is_met(self) -> bool:
        return all(len(self._known(node)) == len(self.nodes) for node in self.nodes)

    def _known(self, node: RedisServer) -> list[list[str]]:
        """The lines of CLUSTER NODES."""
        lines = node.ask("CLUSTER", "NODES").decode().splitlines()
        return [line.split() for line in lines]

    def until_ok(self) -> None:
        """Until all running nodes serve all slots, and each replica has its copy."""
        until(lambda: all(map(self._is_ok, self._running())), "a cluster in order", 30)

    def _is_ok(self, node: RedisServer) -> bool:
        if b"cluster_state:ok" not in node.ask("CLUSTER", "INFO"):
            return False
        role = node.ask("ROLE")
        return bool(role[0] == b"master" or role[3] == b"connected")

    def _running(self) -> list[RedisServer]:
        return [node for node in self.nodes if node.process is not None and node.state() != "T"]

    def id_of(self, node: RedisServer) -> str:
        return str(node.ask("CLUSTER", "MYID").decode())

    def owner_of(self, slot: int) -> RedisServer:
        """As the owner itself sees it; waits until there is one."""
        owner = until(lambda: self._owner_of(slot), f"an owner of slot {slot}")
        assert isinstance(owner, RedisServer)
        return owner

    def _owner_of(self, slot: int) -> RedisServer | None:
        return next((node for node in self._running() if slot in self.slots_of(node)), None)

    def slots_of(self, node: RedisServer) -> set[int]:
        """What it serves, as it sees that itself."""
        line = next(line for line in self._known(node) if "myself" in line[2])
        slots: set[int] = set()
        for part in line[8:] if "master" in line[2] else ():
            if part[0] != "[":  # that would be a slot on its way
                first, _, last = part.partition("-")
                slots.update(range(int(first), int(last or first) + 1))
        return slots

    def move_slot(self, slot: int, target: RedisServer) -> RedisServer:
        """By hand, as the manual of Redis tells. Returns the old owner."""
        source = self.owner_of(slot)
        source_id, target_id = self.id_of(source), self.id_of(target)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        for node in (target, source):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)
        return source

    def subscribed(self, node: RedisServer, sharded: bool = True) -> set[bytes]:
        """The channels that somebody has subscribed to on this node."""
        channels: list[Any] = node.ask("PUBSUB", "SHARDCHANNELS" if sharded else "CHANNELS")
        return set(channels)

    def listeners(self, node: RedisServer) -> list[dict[str, str]]:
        """The connections to this node that listen."""
        return [
            client for client in node.clients() if client["ssub"] != "0" or client["sub"] != "0"
        ]


def _source(index: int) -> str:
    """The address that a node connects from, where there are proxies."""
    return f"127.0.0.{index + 2}"
