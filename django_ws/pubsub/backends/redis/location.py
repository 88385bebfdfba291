"""Parses LOCATION and OPTIONS for Redis, and makes redis-py's pools for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.asyncio.connection import parse_url as parse_asyncio_url
from redis.connection import SSLConnection, parse_url

from django_ws.pubsub.backends.base import publish_seconds_of
from django_ws.pubsub.backends.redis.sentinels import AsyncSentinels, Setting, SyncSentinels
from django_ws.pubsub.backends.redis_cluster.slots import Node

CURE = (
    "give redis://HOST:PORT/DATABASE, rediss://... (TLS), unix:///PATH, "
    '{"sentinels": [(HOST, PORT), ...], "service_name": NAME}, or a list of cluster nodes'
)
ESCAPE = (
    "In user and password write %2F for /, %3F for ?, %23 for #, %40 for @ "
    "(urllib.parse.quote(password, safe='') does)."
)
MAX_CONNECTIONS = 2  # that publish, for all threads of a process

# RESP2: one kind of reply to everything, from every server since Redis 2. No health checks and
# no retries by redis-py: a silent new connection would hide a gap, a repeated PUBLISH would
# double a message.
FORCED = {"protocol": 2, "health_check_interval": 0, "retry": None, "retry_on_timeout": False}
NOT_FOR_CONNECTIONS = ("max_connections", "publish_timeout", "timeout", "retry_on_error")
NOT_FOR_MASTERS = ("is_master", "check_connection")  # of redis-py's pool for sentinels


class Location:
    """Where the server is. Raises ``ValueError`` for what cannot be understood."""

    def __init__(self, location: Any, options: Mapping[str, Any]) -> None:
        self._options = {**options}
        self.max_connections = connections_of(options, MAX_CONNECTIONS)
        self.publish_seconds = publish_seconds_of(options)
        self._sentinels: Setting | None = None
        self._url = ""
        self._master: dict[str, Any] = {}  # what connections to it are made with
        if isinstance(location, str):
            self.server = _server_of_url(location)
            self._url = location
        elif isinstance(location, Mapping):
            self.server = _server_of_sentinels(location)
            self._sentinels, self._master = self._read_sentinels(location)
        else:
            raise ValueError(f"LOCATION of {type(location).__name__}: {CURE}.")
        try:
            pools = self.pool(), self.sync_pool()
            for pool in pools:
                pool.make_connection()  # opens nothing
            self.async_sentinels()
            self.sync_sentinels()
            self.database = int(pools[1].connection_kwargs.get("db") or 0)
        except (TypeError, ValueError, redis.RedisError) as error:
            raise ValueError(
                f"OPTIONS, or the LOCATION for {self.server}: {error}. They may have the "
                "keyword arguments of redis-py's Connection."
            ) from error

    def site(self, prefix: str) -> str:
        return site_of(prefix, self.database)

    def pool(self, master: Node = ("", 0)) -> Any:
        """Makes connections for an event loop. With sentinels: to this master."""
        if self._sentinels is None:
            kwargs = self._kwargs(dict(parse_asyncio_url(self._url)))
        else:
            kwargs = self._kwargs_for(master, redis.asyncio.SSLConnection)
        return redis.asyncio.ConnectionPool(**kwargs)

    def sync_pool(self, master: Node = ("", 0)) -> Any:
        """Makes connections for threads."""
        if self._sentinels is None:
            kwargs = self._kwargs(dict(parse_url(self._url)))  # type: ignore[no-untyped-call]
        else:
            kwargs = self._kwargs_for(master, SSLConnection)
        return redis.ConnectionPool(**kwargs)

    def async_sentinels(self) -> AsyncSentinels | None:
        return None if self._sentinels is None else AsyncSentinels(self._sentinels)

    def sync_sentinels(self) -> SyncSentinels | None:
        return None if self._sentinels is None else SyncSentinels(self._sentinels)

    def _kwargs(self, own: Mapping[str, Any]) -> dict[str, Any]:
        kwargs = {**self._options, **own, **FORCED}
        for name in NOT_FOR_CONNECTIONS:
            kwargs.pop(name, None)
        return kwargs

    def _kwargs_for(self, master: Node, with_tls: type) -> dict[str, Any]:
        kwargs = {**self._master, "host": master[0], "port": master[1]}
        if kwargs.pop("ssl", False):
            kwargs["connection_class"] = with_tls
        return kwargs

    def _read_sentinels(self, location: Mapping[str, Any]) -> tuple[Setting, dict[str, Any]]:
        kwargs = self._kwargs(location)
        for name in NOT_FOR_MASTERS:
            kwargs.pop(name, None)
        setting = Setting(
            service_name=kwargs.pop("service_name"),
            sentinels=[(host, int(port)) for host, port in kwargs.pop("sentinels")],
            sentinel_kwargs=dict(kwargs.pop("sentinel_kwargs", None) or {}),
            min_other_sentinels=kwargs.pop("min_other_sentinels", 0),
            force_master_ip=kwargs.pop("force_master_ip", None),
        )
        return setting, kwargs


def site_of(prefix: str, database: int = 0) -> str:
    """What stands in front of the topics of one site: pub/sub knows no databases."""
    return f"{prefix}db{database}"


def _server_of_url(location: str) -> str:
    """Checked, and without user, password and query.

    No error shows any of it: nobody knows where the password is in a URL that is wrong.
    """
    check_escapes("LOCATION", location)
    parts = urlsplit(location)
    if parts.scheme == "unix" and parts.path:
        return f"unix://{parts.path}"
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    database = parts.path.strip("/")
    if parts.scheme not in ("redis", "rediss") or not host:
        raise ValueError(f"LOCATION is not the URL of a Redis server: {CURE}.")
    if database and not database.isdigit():
        raise ValueError(f"LOCATION: behind the host is not the number of a database: {CURE}.")
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}:{port or 6379}/{database or 0}"


def check_escapes(where: str, url: str) -> None:
    """Raises ``ValueError`` where a user or password ends too early, and what is left of it
    would be taken for host, path or query, and shown.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that do not match
        raise ValueError(f"{where} is no URL: {CURE}. {ESCAPE}") from None
    if parts.fragment or any("@" in part for part in (parts.path, parts.query)):
        raise ValueError(f"{where} has '#', or '@' behind the host: {ESCAPE}")


def connections_of(options: Mapping[str, Any], default: int) -> int:
    """How many connections may publish. Raises ``ValueError``."""
    number = options.get("max_connections", default)
    if type(number) is not int or number < 1:
        raise ValueError(f"OPTIONS: max_connections is {number!r}. Give a number, at least 1.")
    return number


def _server_of_sentinels(location: Mapping[str, Any]) -> str:
    sentinels, name = location.get("sentinels"), location.get("service_name")
    try:
        addresses = ", ".join(f"{host}:{int(port)}" for host, port in sentinels or ())
    except (TypeError, ValueError):
        addresses = ""
    if not addresses or not isinstance(name, str) or not name:
        raise ValueError(
            f"LOCATION with the keys {sorted(map(str, location))} is not a Sentinel set: {CURE}."
        )
    return f"{name} (sentinels {addresses})"


def cause(error: Exception) -> str:
    """For logs and errors: never empty, and without passwords."""
    if isinstance(error, redis.TimeoutError):
        return f"no answer ({error})"
    return str(error) or type(error).__name__
