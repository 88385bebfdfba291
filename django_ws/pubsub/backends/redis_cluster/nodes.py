"""Parses LOCATION and OPTIONS for a Redis Cluster, and connects to its nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import redis
import redis.asyncio
from redis.connection import SSLConnection, parse_url
from redis.exceptions import RedisError

from django_ws.pubsub.backends.base import publish_seconds_of
from django_ws.pubsub.backends.breaker import Breaker
from django_ws.pubsub.backends.redis.connection import abort, connect
from django_ws.pubsub.backends.redis.location import (
    FORCED,
    MAX_CONNECTIONS,
    NOT_FOR_CONNECTIONS,
    check_escapes,
    connections_of,
)
from django_ws.pubsub.backends.redis_cluster.slots import Node, Slots

DEFAULT_PORT = 6379

# One step (connecting, sending, asking for the slots) is given up after this part of the time, so
# that a frozen node leaves time to ask another one.
STEP = 0.3


class Nodes:
    """How to reach each node. Raises ``ValueError`` for what cannot be understood.

    Made once for a listener or a publisher, with the map of slots that it has heard, and with what
    it knows of nodes that do not answer.
    """

    def __init__(self, location: Any, options: Mapping[str, Any]) -> None:
        configured, own = read_location(location)
        kwargs = {**options, **own}
        self.max_connections = connections_of(kwargs, MAX_CONNECTIONS)
        self.publish_seconds = publish_seconds_of(kwargs)
        self.step_seconds = STEP * self.publish_seconds
        self.slots = Slots(configured, kwargs.pop("address_remap", None))
        self._breakers: dict[Node, Breaker] = {}
        self.server = f"Redis Cluster ({', '.join(f'{h}:{p}' for h, p in configured)})"
        self._uses_tls = kwargs.pop("ssl", False)
        self._kwargs = {
            "socket_timeout": self.step_seconds,
            "socket_connect_timeout": self.step_seconds,
            **{name: kwargs[name] for name in kwargs if name not in NOT_FOR_CONNECTIONS},
            **FORCED,
        }
        try:
            self.pool(configured[0]).make_connection()  # opens nothing
        except (TypeError, ValueError, RedisError) as error:
            raise ValueError(
                f"OPTIONS for {self.server}: {error}. They may have the keyword arguments of "
                "redis-py's Connection, ssl and address_remap."
            ) from error

    def pool(self, node: Node) -> Any:
        """Makes connections for an event loop, which has its own limits of time."""
        kwargs = self._kwargs_for(node, redis.asyncio.SSLConnection)
        return redis.asyncio.ConnectionPool(**{**kwargs, "socket_timeout": None})

    def sync_pool(self, node: Node) -> Any:
        """Lends connections to threads."""
        return redis.BlockingConnectionPool(  # type: ignore[no-untyped-call]
            max_connections=self.max_connections,
            timeout=self.step_seconds,
            **self._kwargs_for(node, SSLConnection),
        )

    def sync_connection(self, node: Node, seconds: float) -> Any:
        """One that is not of the pool; each step may take so long."""
        limits = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
        kwargs = {**self._kwargs_for(node, SSLConnection), **limits}
        return redis.ConnectionPool(**kwargs).make_connection()

    def _kwargs_for(self, node: Node, with_tls: type) -> dict[str, Any]:
        tls = {"connection_class": with_tls} if self._uses_tls else {}
        return {**self._kwargs, "host": node[0], "port": node[1], **tls}

    def breaker(self, node: Node) -> Breaker:
        return self._breakers.get(node) or self._breakers.setdefault(node, Breaker(name_of(node)))

    @asynccontextmanager
    async def answering(self, node: Node) -> AsyncIterator[bool]:
        """Around what the node must answer in one step. Gives whether it is a probe, which has less
        time for it. Raises ``TimeoutError``, and ``NotTried`` where the breaker is open.
        """
        breaker = self.breaker(node)
        is_probe = breaker.admit()
        seconds = min(Breaker.PROBE_SECONDS, self.step_seconds) if is_probe else self.step_seconds
        try:
            async with asyncio.timeout(seconds):
                yield is_probe
        except (TimeoutError, redis.TimeoutError) as error:
            silence = TimeoutError(f"no answer in {seconds:g} s")
            breaker.open(str(silence), error)
            raise silence from error
        except (RedisError, OSError):
            breaker.close()  # it is there, or its machine says that it is not
            raise
        breaker.close()

    async def ask_slots(self, on_error: Callable[[Node, Exception], None]) -> bool:
        """Ask one node after the other until one answers. False if none does."""
        for node in self.slots.candidates():
            try:
                await self._ask_slots(node)
            except Exception as error:
                on_error(node, error)
            else:
                return True
        return False

    async def _ask_slots(self, node: Node) -> None:
        async with self.answering(node):
            connection = await connect(self.pool(node))
            try:
                await connection.send_command("CLUSTER", "SLOTS")
                slots = await connection.read_response()
                await connection.send_command("COMMAND", "INFO", "SSUBSCRIBE")
                self.slots.learn(node, slots, await connection.read_response())
            finally:
                await abort(connection)


def name_of(node: Node) -> str:
    """For errors and logs."""
    return f"Redis Cluster, node {node[0]}:{node[1]}"


def read_location(location: Any) -> tuple[list[Node], dict[str, Any]]:
    """The nodes to ask first, and what their URLs say beside that, for redis-py.

    ``location`` is a list of ``"redis://[user:password@]host[:port]"`` (``rediss://`` for TLS)
    or ``(host, port)``. Raises ``ValueError``, which does not show passwords.
    """
    if isinstance(location, str | bytes | Mapping) or not location:
        raise ValueError("LOCATION of a Redis Cluster: give a list of its nodes.")
    nodes: list[Node] = []
    settings: list[dict[str, Any]] = []
    for index, item in enumerate(location):
        where = f"LOCATION[{index}]"
        if isinstance(item, str):
            setting = _read_url(where, item)
            nodes.append((setting.pop("host"), setting.pop("port")))
        else:
            nodes.append(_read_pair(where, item))
            setting = {}
        settings.append(setting)
    if any(setting != settings[0] for setting in settings):
        raise ValueError(
            "LOCATION of a Redis Cluster: the nodes share user, password, TLS and all but host "
            "and port. Give the same in each URL, or give them in OPTIONS."
        )
    return nodes, settings[0]


def _read_url(where: str, url: str) -> dict[str, Any]:
    check_escapes(where, url)
    try:
        setting: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
    except ValueError:  # whose text may show a password
        raise ValueError(f"{where}: not the URL of a node: give redis://host:port") from None
    if "path" in setting or not setting.get("host"):
        raise ValueError(f"{where}: a node is reached by TCP: give redis://host:port")
    if setting.pop("db", 0):
        raise ValueError(f"{where}: a Redis Cluster has database 0 alone: leave the number out")
    if setting.pop("connection_class", None) is SSLConnection:
        setting["ssl"] = True
    return {"port": DEFAULT_PORT, **setting}


def _read_pair(where: str, item: Any) -> Node:
    match item:
        case (str(host), int(port)) if host and 0 < port < 65536:
            return host, port
    raise ValueError(f'{where}: give "redis://host:port" or (host, port)')
