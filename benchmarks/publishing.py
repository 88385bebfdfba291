"""`broadcast()` in a loop of sync code, beside a loop of redis-py's `publish()`."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from time import perf_counter
from typing import Any

import django
import redis as redis_py

from benchmarks import frames
from benchmarks.findings import Finding
from benchmarks.load import Load
from benchmarks.redis_server import Redis
from benchmarks.rounds import Plan, compare_pairs
from benchmarks.server import Server, on_server_core

_MESSAGE = {"type": "chat", "room": "lobby", "user": "alice", "text": "Hello there", "id": 4711}


def _loop(publish: Callable[[], Any], seconds: float) -> Load:
    now = start = perf_counter()
    count = 0
    while now < start + seconds:
        for _ in range(20):
            publish()
        count += 20
        now = perf_counter()
    # It mostly waits for Redis, which is part of what a call takes.
    return Load(count, now - start, 1.0, server_seconds=now - start)


def measure(redis: Redis, plan: Plan) -> list[Finding]:
    """In this process, on the server's core. Nobody has subscribed."""
    django.setup()
    from django_ws import broadcast

    bare = redis_py.Redis.from_url(redis.url)
    loops: dict[str, Callable[[], Any]] = {
        "bare": lambda: bare.publish("room", frames.JSON.text),
        "django_ws": lambda: broadcast("room", _MESSAGE),
    }
    with on_server_core(), bare:
        return compare_pairs(
            "broadcast() in sync code",
            [Server(name, 0, 0) for name in loops],
            lambda side: nullcontext(partial(_loop, loops[side.name])),
            plan,
            {("django_ws", "bare"): 0.7},
        )
