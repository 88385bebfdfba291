"""A consumer of Channels whose base class alone was changed: nobody gets in, and it is said."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.routing import URLRouter
from django.core.exceptions import ImproperlyConfigured
from django.urls import path
from pytest_django import Settings

from django_ws import WebSocketHandler
from django_ws.auth import FirstMessageAuthMixin
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.asgi_peer import PATH, client, route

called: list[str] = []


class Consumer:
    """As it stood in the Channels project, but for its base."""

    groups = ["news"]

    async def connect(self: Any) -> None:
        if not self.scope["user"].is_authenticated:
            await self.close()
        else:
            await self.accept()

    async def receive_json(self: Any, content: Any) -> None:
        await self.send_json(content)


class Moved(Consumer, WebSocketHandler):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)

    async def on_connect(self) -> None:
        called.append("on_connect")

    async def on_error(self, error: BaseException) -> None:
        called.append("on_error")


class MovedWithFirstMessage(Consumer, FirstMessageAuthMixin, WebSocketHandler):
    pass


class StillAConsumer(Consumer, AsyncJsonWebsocketConsumer):
    groups = []  # which need a channel layer


class Cured(Moved):
    connect = receive_json = groups = None  # type: ignore[assignment]


@pytest.mark.parametrize("handler", [Moved, MovedWithFirstMessage])
async def test_nobody_gets_in_and_the_log_says_what_to_write(
    handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with route(handler), pytest.raises(HandshakeRejected) as refused:
        async with WebSocketClient(PATH):
            pass
    assert (refused.value.status, called) == (500, [])
    assert isinstance(refused.value.__cause__, ImproperlyConfigured)
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.exc_info
    text = str(record.exc_info[1])
    for words in (
        f"{handler.__name__} is a WebSocketHandler",
        "connect: on_connect(self)",
        "receive_json: on_message(self, message)",
        "groups: topics",
    ):
        assert words in text


async def test_with_debug_the_client_is_told_too(settings: Settings) -> None:
    settings.DEBUG = True
    with route(Moved), pytest.raises(HandshakeRejected) as refused:
        async with WebSocketClient(PATH):
            pass
    assert "Write instead: connect: on_connect" in refused.value.reason


async def test_a_subclass_that_has_none_of_it_serves() -> None:
    async with client(Cured) as ws:
        await ws.close()
    assert called.pop() == "on_connect"


async def test_a_consumer_that_still_is_one_serves_as_an_application() -> None:
    with route(StillAConsumer.as_asgi()), pytest.raises(HandshakeRejected) as refused:
        async with WebSocketClient(PATH):  # anonymous: its own connect() refuses
            pass
    assert refused.value.status == 403


async def test_following_the_advice_gives_a_handler_that_serves() -> None:
    class Followed(WebSocketHandler):
        topics = ["news"]

        async def on_connect(self) -> None:
            called.append("on_connect")

        async def on_message(self, message: Any) -> None:
            await self.send(message)

        async def on_close(self) -> None:
            called.append(f"closed with {self.close_code}")

    async with client(Followed) as ws:
        await ws.send({"a": 1})
        assert await ws.receive() == {"a": 1}
        await ws.close(4000)
    assert called == ["on_connect", "closed with 4000"]
    called.clear()


async def test_a_handler_in_channels_own_router_says_where_it_belongs() -> None:
    routes: list[Any] = [path("ws/", WebSocketHandler)]
    router = URLRouter(routes)
    with pytest.raises(TypeError, match=r"WebSocketHandler is a handler class, no ASGI applic.*"):
        await router({"type": "websocket", "path": "/ws/"}, None, None)
