"""Handlers and the hub while a real Redis is away."""

import asyncio
import logging
from collections.abc import Iterator

import pytest
from pytest_django import Settings

from django_ws import WebSocketHandler, abroadcast
from django_ws.pubsub.hubs import running_hub
from django_ws.testing import WebSocketClient
from tests.asgi_peer import PATH, client, the_handler, turns, until
from tests.redis_server import RedisServer


class Quiet(WebSocketHandler):
    pass


@pytest.fixture
def redis_server(settings: Settings) -> Iterator[RedisServer]:
    with RedisServer() as server:
        settings.WS_BROADCAST = server.url
        yield server


async def test_who_gives_up_a_topic_does_not_take_the_others_with_it(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They were asked for together: in one request to the backend."""
    monkeypatch.setattr("django_ws.pubsub.hub.GRACE_SECONDS", 0.001)
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
            await until(lambda: "a" not in hub.rooms)
            await turns()
            await asyncio.to_thread(redis_server.start)
            await subscribing[1]
            await abroadcast(["a", "b"], 1)
            assert await stays.receive() == 1
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
