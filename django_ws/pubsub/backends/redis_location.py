"""What LOCATION and OPTIONS mean for Redis: where the server is, and redis-py's pools for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.asyncio.sentinel
import redis.backoff
import redis.retry
import redis.sentinel
from redis.asyncio.connection import parse_url as parse_asyncio_url
from redis.asyncio.sentinel import MasterNotFoundError as AsyncMasterNotFound
from redis.connection import parse_url
from redis.sentinel import MasterNotFoundError as MasterNotFound

CURE = (
    "give redis://HOST:PORT/DATABASE, rediss://... (TLS), unix:///PATH, "
    '{"sentinels": [(HOST, PORT), ...], "service_name": NAME}, or a list of cluster nodes'
)
ESCAPE = (
    "In user and password write %2F for /, %3F for ?, %23 for #, %40 for @ "
    "(urllib.parse.quote(password, safe='') does)."
)
SENTINELS_SECONDS = 3.0  # for asking all of them, one after the other: some may be down
SENTINEL_SECONDS = 1.0  # for asking one, at most
MAX_CONNECTIONS = 2  # that publish, for all threads of a process

# RESP2: one kind of reply to everything, from every server since Redis 2. No health checks and
# no retries by redis-py: a silent new connection would hide a gap, a repeated PUBLISH would
# double a message.
FORCED = {"protocol": 2, "health_check_interval": 0, "retry": None, "retry_on_timeout": False}
NOT_FOR_CONNECTIONS = ("max_connections", "timeout", "retry_on_error")


class Location:
    """Where the server is. Raises ``ValueError`` for what cannot be understood."""

    def __init__(self, location: Any, options: Mapping[str, Any]) -> None:
        self._options = {**options}
        self.max_connections = connections_of(options, MAX_CONNECTIONS)
        self._sentinels: dict[str, Any] | None = None
        if isinstance(location, str):
            self.server = _server_of_url(location)
            self._url = location
        elif isinstance(location, Mapping):
            self._sentinels = dict(location)
            self.server = _server_of_sentinels(self._sentinels)
        else:
            raise ValueError(f"LOCATION of {type(location).__name__}: {CURE}.")
        try:
            self.pool().make_connection()  # opens nothing
            self.sync_pool().make_connection()
        except (TypeError, ValueError, redis.RedisError) as error:
            raise ValueError(
                f"OPTIONS, or the LOCATION for {self.server}: {error}. They may have the "
                "keyword arguments of redis-py's Connection."
            ) from error

    def pool(self) -> Any:
        """Makes connections for an event loop."""
        if self._sentinels is None:
            kwargs = self._kwargs(dict(parse_asyncio_url(self._url)))
            return redis.asyncio.ConnectionPool(**kwargs)
        return self._sentinel_pool(
            redis.asyncio.sentinel, redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0)
        )

    def sync_pool(self) -> Any:
        """Makes connections for threads. One pool for each connection: asking sentinels is not
        thread-safe in redis-py."""
        if self._sentinels is None:
            kwargs = self._kwargs(dict(parse_url(self._url)))  # type: ignore[no-untyped-call]
            return redis.ConnectionPool(**kwargs)
        return self._sentinel_pool(redis.sentinel, redis.retry.Retry(redis.backoff.NoBackoff(), 0))

    def _kwargs(self, own: dict[str, Any]) -> dict[str, Any]:
        kwargs = {**self._options, **own, **FORCED}
        for name in NOT_FOR_CONNECTIONS:
            kwargs.pop(name, None)
        return kwargs

    def _sentinel_pool(self, module: Any, no_retry: Any) -> Any:
        assert self._sentinels is not None
        kwargs = self._kwargs(self._sentinels)
        seconds = min(SENTINEL_SECONDS, SENTINELS_SECONDS / len(kwargs["sentinels"]))
        sentinel_kwargs = {
            "socket_timeout": seconds,
            "socket_connect_timeout": seconds,
            "retry": no_retry,
            "protocol": 2,
            **kwargs.pop("sentinel_kwargs", {}),
        }
        for_sentinels = {
            name: kwargs.pop(name)
            for name in ("sentinels", "min_other_sentinels", "force_master_ip")
            if name in kwargs
        }
        manager = module.Sentinel(**for_sentinels, sentinel_kwargs=sentinel_kwargs)
        return module.SentinelConnectionPool(kwargs.pop("service_name"), manager, **kwargs)


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


def _server_of_sentinels(location: dict[str, Any]) -> str:
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
    if isinstance(error, (MasterNotFound, AsyncMasterNotFound)):
        return "no sentinel knows a master that is up"  # redis-py's text shows more
    return str(error) or type(error).__name__


async def connect(pool: Any) -> Any:
    """A new connection, connected. The caller limits the time, and ``abort``s it at the end."""
    connection = pool.make_connection()
    # With a socket_timeout redis-py would use asyncio.wait_for, which can swallow a cancellation.
    socket_timeout, connection.socket_timeout = connection.socket_timeout, None
    try:
        await connection.connect()
        connection.socket_timeout = socket_timeout
    except BaseException:
        await abort(connection)
        raise
    finally:
        await _leave_sentinels(pool)
    return connection


def connect_sync(pool: Any, connection: Any, seconds: float) -> None:
    """Connect within ``seconds``, of which connecting and what follows (TLS, AUTH) may have
    half each."""
    connection.socket_connect_timeout = connection.socket_timeout = seconds / 2
    try:
        connection.connect()
    finally:
        _leave_sentinels_sync(pool)


async def is_right_server(pool: Any, connection: Any) -> bool:
    """Whether the sentinels still name this server as the master; true without sentinels.

    A master that is cut off from them lives on, and others have gone to the new one.
    """
    if not hasattr(pool, "sentinel_manager"):
        return True
    try:
        master = await pool.sentinel_manager.discover_master(pool.service_name)
    except redis.RedisError:
        return True  # nobody knows better
    finally:
        await _leave_sentinels(pool)
    return bool(master == (connection.host, connection.port))


def is_right_server_sync(pool: Any, connection: Any) -> bool:
    if not hasattr(pool, "sentinel_manager"):
        return True
    try:
        master = pool.sentinel_manager.discover_master(pool.service_name)
    except redis.RedisError:
        return True
    finally:
        _leave_sentinels_sync(pool)
    return bool(master == (connection.host, connection.port))


async def _leave_sentinels(pool: Any) -> None:
    """They are asked now and then, and no connection to them is kept in between."""
    if hasattr(pool, "sentinel_manager"):
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def _leave_sentinels_sync(pool: Any) -> None:
    if hasattr(pool, "sentinel_manager"):
        for sentinel in pool.sentinel_manager.sentinels:
            sentinel.close()


async def abort(connection: Any) -> None:
    """Close at once. Closing in order would wait for what a frozen server does not take."""
    writer = connection._writer
    if writer is not None:
        writer.transport.abort()
    await connection.disconnect(nowait=True)
