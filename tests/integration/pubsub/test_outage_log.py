"""How long broadcasts did not arrive, as the log says it: since the last sign of life."""

from __future__ import annotations

import asyncio
import re
import signal
import time

import pytest

from django_ws.pubsub.backends.redis.listener import Listener, SetListener
from django_ws.pubsub.backends.zeromq import ZeroMQBackend
from tests.integration.pubsub.test_zeromq import BrokerProcess, a_location, listening, until
from tests.support.listening import Listening, eventually
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer

ROUNDED = 0.06  # seconds: the log has one place behind the point


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for listener in (Listener, SetListener):
        monkeypatch.setattr(listener, "PING_SECONDS", 0.2)
        monkeypatch.setattr(listener, "PONG_SECONDS", 1.0)


def seconds_of(line: str) -> float:
    found = re.search(r"after ([\d.]+) s", line)
    assert found
    return float(found[1])


@pytest.mark.parametrize("kind", ["redis", "cluster"])
async def test_redis_was_away_since_it_was_last_heard(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer() if kind == "redis" else RedisCluster(masters=1) as away:
        server = away if isinstance(away, RedisServer) else away.nodes[0]
        location = away.url if isinstance(away, RedisServer) else away.location
        async with Listening(location, "a") as here:
            frozen_at = time.monotonic()
            server.freeze()
            await eventually(lambda: "do not arrive" in caplog.text)
            frozen = time.monotonic() - frozen_at
            server.thaw()
            await here.has(gaps=1)
            await eventually(lambda: "arrive again" in caplog.text)
    (line,) = [each for each in caplog.messages if "arrive again" in each]
    assert frozen > 0.5
    assert seconds_of(line) >= frozen - ROUNDED


async def test_a_server_that_was_never_heard_is_away_since_it_was_tried(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with RedisServer() as server:
        server.kill()
        async with Listening(server.url) as here:
            joining = asyncio.create_task(here.subscribe("a"))
            await eventually(lambda: "do not arrive" in caplog.text)
            began = time.monotonic()
            server.start()
            await joining
            await eventually(lambda: "arrive again" in caplog.text)
            assert seconds_of(caplog.messages[-1]) >= 0.0
            assert seconds_of(caplog.messages[-1]) <= time.monotonic() - began + 20


async def test_the_broker_was_away_since_it_was_last_heard(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Quick(ZeroMQBackend):
        heartbeat_seconds = 0.1
        answer_seconds = 1.0

    with a_location() as location:
        broker = BrokerProcess(location)
        backend = Quick(location, "t:", {})
        async with listening(backend, "a"):
            await until(lambda: backend._heard_at)
            caplog.clear()
            frozen_at = time.monotonic()
            broker.signal(signal.SIGSTOP)
            await until(lambda: "does not answer" in caplog.text)
            frozen = time.monotonic() - frozen_at
            broker.signal(signal.SIGCONT)
            await until(lambda: "is back" in caplog.text)
        await asyncio.to_thread(broker.stop)
    (line,) = [each for each in caplog.messages if "is back" in each]
    assert frozen > 0.5
    assert seconds_of(line) >= frozen - ROUNDED
