"""Asks the sentinels for the master, until most of them name the same one.

One sentinel alone may be cut off from the others, and name the old master for long after the
others have put a new one in its place. So nobody relies on fewer than most of them: then who
moves to the new master has asked one that a publisher at the old one has asked before.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.backoff
import redis.retry

from django_ws.pubsub.backends.redis.connection import abort_all
from django_ws.pubsub.backends.redis_cluster.slots import Node

ALL_SECONDS = 3.0  # for asking all sentinels, one after the other: some may be down
ONE_SECONDS = 1.0  # for asking one, at most
# Where they could not tell, they are asked again after this time, or after so many times the time
# that asking has taken.
REST_SECONDS = 0.1
REST_TIMES = 10


class NoMaster(redis.ConnectionError):
    """No sentinel names a server that is up."""

    def __init__(self) -> None:
        super().__init__("no sentinel knows a master that is up")


class Named(NamedTuple):
    """What the sentinels say. All times in seconds."""

    address: Node
    is_sure: bool  # most of them name it
    is_up: bool  # as far as one of them sees
    since: float  # how long it has been the master: no less
    asked_at: float  # by time.monotonic(), before the first of them was asked


class Setting(NamedTuple):
    """The sentinels of LOCATION and OPTIONS, with the names of redis-py."""

    service_name: str
    sentinels: list[Node]
    sentinel_kwargs: dict[str, Any]
    min_other_sentinels: int
    force_master_ip: str | None

    @property
    def question(self) -> tuple[str, str, str]:
        return "SENTINEL", "MASTER", self.service_name

    def clients(self, make: Any, no_retry: Any) -> list[Any]:
        seconds = min(ONE_SECONDS, ALL_SECONDS / len(self.sentinels))
        kwargs = {
            "socket_timeout": seconds,
            "socket_connect_timeout": seconds,
            "retry": no_retry,
            "protocol": 2,
            **self.sentinel_kwargs,
        }
        return [make(host=host, port=port, **kwargs) for host, port in self.sentinels]


class _Ballot:
    """The answers to one question."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.asked_at = time.monotonic()
        self._states: dict[Node, list[Mapping[str, str]]] = {}

    def add(self, answer: list[str | bytes]) -> bool:
        """Take what one has answered to SENTINEL MASTER. Whether most name one server now."""
        words = [word.decode() if isinstance(word, bytes) else word for word in answer]
        state = dict(zip(words[::2], words[1::2], strict=True))
        if int(state["num-other-sentinels"]) < self._setting.min_other_sentinels:
            return False
        address = self._setting.force_master_ip or state["ip"], int(state["port"])
        states = self._states.setdefault(address, [])
        states.append(state)
        return len(states) > len(self._setting.sentinels) / 2

    def result(self) -> Named | None:
        """None where nobody has answered."""
        if not self._states:
            return None
        address, states = max(self._states.items(), key=lambda item: len(item[1]))
        return Named(
            address,
            is_sure=len(states) > len(self._setting.sentinels) / 2,
            is_up=any(not {"s_down", "o_down"} & {*s["flags"].split(",")} for s in states),
            since=min(int(s.get("role-reported-time", 0)) for s in states) / 1000,
            asked_at=self.asked_at,
        )


class _Memory:
    """What was answered last, and whether that still serves."""

    def __init__(self) -> None:
        self.last: Named | None = None
        self._rests_until = -math.inf

    def serves(self, max_age: float) -> bool:
        now = time.monotonic()
        if self.last is not None and self.last.is_sure:
            return now - self.last.asked_at <= max_age
        return now < self._rests_until and max_age > 0

    def keep(self, ballot: _Ballot) -> None:
        self.last = ballot.result()
        now = time.monotonic()
        # Sentinels that are down can take seconds: callers shall not wait for them all the time.
        self._rests_until = now + max(REST_SECONDS, REST_TIMES * (now - ballot.asked_at))


class AsyncSentinels:
    """For one event loop. No connection is kept between two questions."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        no_retry = redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0)
        self._clients = setting.clients(redis.asyncio.Redis, no_retry)
        self._lock = asyncio.Lock()
        self._memory = _Memory()

    @property
    def last(self) -> Named | None:
        """What they have answered last."""
        return self._memory.last

    async def ask(self, max_age: float = 0.0) -> Named | None:
        """Ask, unless most of them have named a server in the last ``max_age`` seconds.

        With a ``max_age`` it does not ask too often while they cannot tell. None where nobody
        has answered.
        """
        if self._memory.serves(max_age):
            return self._memory.last
        async with self._lock:
            if not self._memory.serves(max_age):  # otherwise somebody else has asked meanwhile
                await self._ask()
            return self._memory.last

    async def _ask(self) -> None:
        ballot = _Ballot(self._setting)
        for client in list(self._clients):
            try:
                if ballot.add(await client.execute_command(*self._setting.question)):
                    break
            except (redis.RedisError, OSError):
                self._clients.remove(client)
                self._clients.append(client)  # the last to be asked next time
            finally:
                await abort_all(client.connection_pool)
        self._memory.keep(ballot)


class SyncSentinels:
    """For any thread, but not for a forked child. No connection is kept between two questions."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        no_retry = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
        self._clients = setting.clients(redis.Redis, no_retry)
        self._lock = threading.Lock()
        self._memory = _Memory()

    @property
    def last(self) -> Named | None:
        """What they have answered last."""
        return self._memory.last

    def ask(self, end: float, max_age: float = 0.0) -> Named | None:
        """As in ``AsyncSentinels``, until ``end`` (by time.monotonic())."""
        if self._memory.serves(max_age):
            return self._memory.last
        if not self._lock.acquire(timeout=max(0.0, end - time.monotonic())):
            return self._memory.last  # another thread waits for their answers
        try:
            if not self._memory.serves(max_age):
                self._ask(end)
            return self._memory.last
        finally:
            self._lock.release()

    def _ask(self, end: float) -> None:
        ballot = _Ballot(self._setting)
        for client in list(self._clients):
            if time.monotonic() >= end:
                break
            try:
                if ballot.add(client.execute_command(*self._setting.question)):
                    break
            except (redis.RedisError, OSError):
                self._clients.remove(client)
                self._clients.append(client)
            finally:
                client.close()
        self._memory.keep(ballot)
