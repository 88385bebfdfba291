"""Handlers and the hub while a real Redis is away."""

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_django import Settings

from django_ws import WebSocketHandler, abroadcast
from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends import base
from django_ws.pubsub.hub.registry import running_hub
from django_ws.pubsub.outbox import outbox, publish_queue
from django_ws.testing import WebSocketClient
from tests.support.asgi_peer import PATH, client, the_handler, turns, until
from tests.support.handlers import Quiet
from tests.support.redis_server import RedisServer


@pytest.fixture
def redis_server(settings: Settings) -> Iterator[RedisServer]:
    with RedisServer() as server:
        settings.WS_BROADCAST = server.url
        yield server


async def test_who_gives_up_a_topic_does_not_take_the_others_with_it(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They were asked for together: in one request to the backend."""
    monkeypatch.setattr("django_ws.pubsub.hub.topic_registry.GRACE_SECONDS", 0.001)
    async with client(Quiet) as stays:
        staying = the_handler()
        async with WebSocketClient(PATH):
            leaving = the_handler()
            await staying.subscribe("before")
            redis_server.kill()
            subscribing = [leaving.subscribe("a"), staying.subscribe("b")]
            await turns()
            await leaving.unsubscribe("a")
            await subscribing[0]
            hub = running_hub("default")
            assert hub is not None
            await until(lambda: "a" not in hub.topics)
            await turns()
            await asyncio.to_thread(redis_server.start)
            await subscribing[1]
            await abroadcast(["a", "b"], 1)
            assert await stays.receive() == 1
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_frozen_redis_fails_every_broadcast_in_its_own_time_and_holds_up_no_shutdown(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FromThread(WebSocketHandler):
        def on_message(self, message: Any) -> None:
            try:
                self.broadcast("room", message)
            except BroadcastError as error:
                errors.append(error)

    errors: list[BroadcastError] = []
    for module in (outbox, base):
        monkeypatch.setattr(module, "PUBLISH_SECONDS", 0.5)
    monkeypatch.setattr(publish_queue, "MAX_BATCH", 1)
    async with client(FromThread) as ws:
        await the_handler().broadcast("room", "while it is well")
        redis_server.freeze()
        assert redis_server.state() == "T"
        began = time.monotonic()
        calls = [asyncio.ensure_future(abroadcast("room", number)) for number in range(60)]
        await ws.send("sync")
        for call in calls:
            with pytest.raises(BroadcastError, match=r"not taken within|no answer in"):
                await call
        await until(lambda: errors)
        assert time.monotonic() - began < 20  # and not sixty times half a second
        hub = running_hub("default")
        assert hub is not None
        under_way = [asyncio.ensure_future(abroadcast("room", number)) for number in range(60)]
        await turns()
        began = time.monotonic()
        await hub.close()
        assert time.monotonic() - began < 20
        for call in under_way:
            with pytest.raises(BroadcastError):
                await call
        with pytest.raises(BroadcastError, match="closed"):
            await hub.outbox.put([("room", b"")])
        assert redis_server.state() == "T"
