"""What a hub asks its backend for: bounded, whatever clients ask of it."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_django import Settings

from django_ws import abroadcast
from django_ws.exceptions import BroadcastError
from django_ws.pubsub.hub import topic_registry as rooms_module
from django_ws.pubsub.hub.hub import Hub
from django_ws.pubsub.hub.registry import running_hub
from tests.support.asgi_peer import client, the_handler, until
from tests.support.fickle import FickleBackend, fickle  # noqa: F401  (a fixture)
from tests.support.handlers import Quiet
from tests.support.redis_server import RedisServer


def the_hub() -> Hub:
    hub = running_hub("default")
    assert hub is not None
    return hub


@pytest.fixture
def redis_server(settings: Settings) -> Iterator[RedisServer]:
    with RedisServer() as server:
        settings.WS_BROADCAST = server.url
        yield server


async def test_who_joins_again_while_the_backend_is_away_keeps_the_old_subscription(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client(Quiet) as ws:
        handler = the_handler()
        await handler.subscribe(["a", "b"])
        redis_server.kill()
        hub = the_hub()
        await until(lambda: not hub.is_connected)
        monkeypatch.setattr(rooms_module, "SUBSCRIBE_SECONDS", 0.05)
        for topics in ("a", ["b", "new"]):
            with pytest.raises(BroadcastError, match="not confirmed"):
                await handler.subscribe(topics)
        await until(lambda: handler.subscriptions == {"a", "b"})
        await asyncio.to_thread(redis_server.start)
        await until(lambda: hub.is_connected)
        await abroadcast(["a"], "a")
        await abroadcast(["b"], "b")
        await abroadcast(["new"], "new")
        assert [await ws.receive(), await ws.receive()] == ["a", "b"]
        await ws.receive_nothing()


async def test_a_topic_keeps_its_handler_until_another_one_is_confirmed(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[str, str, Any]] = []

    async def first(topic: str, message: Any) -> None:
        called.append(("first", topic, message))

    async def second(topic: str, message: Any) -> None:
        called.append(("second", topic, message))

    async with client(Quiet) as ws:
        handler = the_handler()
        await handler.subscribe(["a", "left"], first)
        await handler.subscribe("plain")
        redis_server.kill()
        hub = the_hub()
        await until(lambda: not hub.is_connected)
        with monkeypatch.context() as patch:
            patch.setattr(rooms_module, "SUBSCRIBE_SECONDS", 0.05)
            for function in (second, None):
                with pytest.raises(BroadcastError, match="not confirmed"):
                    await handler.subscribe(["a", "plain"], function)
        changing = handler.subscribe(["left", "plain"], second)
        await handler.unsubscribe("left")
        await asyncio.to_thread(redis_server.start)
        await changing
        for topic in ("a", "plain", "left"):
            await abroadcast(topic, topic)
        await until(lambda: len(called) == 2)
        assert called == [("first", "a", "a"), ("second", "plain", "plain")]
        await ws.receive_nothing()
