"""A real Channels consumer as a route: unchanged, behind the origin check and the log-in."""

import logging
from typing import Any

import pytest
from channels.exceptions import DenyConnection, StopConsumer
from channels.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    WebsocketConsumer,
)
from django.contrib.auth.models import AnonymousUser, User
from pytest_django import Settings

from django_ws import ConnectionClosed
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.routes import path


class JsonConsumer(AsyncJsonWebsocketConsumer):
    async def connect(self) -> None:
        await self.accept(subprotocol="v2" if "v2" in self.scope["subprotocols"] else None)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        match content:
            case {"close": code}:
                await self.close(code=code, reason="as you wish")
            case {"raise": text}:
                raise LookupError(text)
            case _:
                await self.send_json({"echo": content})


class SyncConsumer(WebsocketConsumer):
    """Uses the ORM in its own, synchronous way."""

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if text_data == "count":
            self.send(text_data=str(User.objects.count()))
        else:
            self.send(text_data=text_data, bytes_data=bytes_data)


class ScopeConsumer(AsyncJsonWebsocketConsumer):
    async def connect(self) -> None:
        await self.accept()
        session = self.scope["session"]
        await self.send_json(
            {
                "url_route": self.scope["url_route"],
                "user": str(self.scope["user"]),
                "session": session.get("colour"),
                "cookies": self.scope["cookies"],
                "path": self.scope["path"],
            }
        )


class RejectingConsumer(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        await self.close()


class DenyingConsumer(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        raise DenyConnection


class BrokenConsumer(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        raise LookupError("in connect")


disconnects: list[int] = []


class LeavingConsumer(AsyncWebsocketConsumer):
    async def disconnect(self, code: int) -> None:
        disconnects.append(code)
        raise StopConsumer


urlpatterns = [
    path("json/", JsonConsumer.as_asgi()),
    path("sync/", SyncConsumer.as_asgi()),
    path("scope/<slug:room>/<int:number>/", ScopeConsumer.as_asgi()),
    path("rejecting/", RejectingConsumer.as_asgi()),
    path("denying/", DenyingConsumer.as_asgi()),
    path("broken/", BrokenConsumer.as_asgi()),
    path("leaving/", LeavingConsumer.as_asgi()),
]


@pytest.fixture(autouse=True)
def routes(settings: Settings) -> None:
    settings.ROOT_WS_URLCONF = __name__
    disconnects.clear()


async def test_async_consumer_echoes() -> None:
    async with WebSocketClient("/json/") as ws:
        await ws.send({"text": "hi"})
        assert await ws.receive() == {"echo": {"text": "hi"}}


async def test_consumer_selects_the_subprotocol() -> None:
    async with WebSocketClient("/json/", subprotocols=["v1", "v2"]) as ws:
        assert ws.subprotocol == "v2"


async def test_consumer_closes_with_its_code_and_reason() -> None:
    async with WebSocketClient("/json/") as ws:
        await ws.send({"close": 4321})
        assert await ws.wait_closed() == 4321
        assert ws.close_reason == "as you wish"


async def test_consumer_is_told_that_the_client_has_left() -> None:
    async with WebSocketClient("/leaving/") as ws:
        await ws.close(4000)
    assert disconnects == [4000]


@pytest.mark.parametrize("url", ["/rejecting/", "/denying/"])
async def test_consumer_refuses_the_handshake(url: str) -> None:
    with pytest.raises(HandshakeRejected) as refused:
        await WebSocketClient(url).__aenter__()
    assert refused.value.status == 403


@pytest.mark.django_db(transaction=True)
async def test_sync_consumer_echoes_text_and_bytes() -> None:
    async with WebSocketClient("/sync/") as ws:
        await ws.send_text("hi")
        assert await ws.receive_data() == "hi"
        await ws.send_bytes(b"\x00\x01")
        assert await ws.receive_data() == b"\x00\x01"


@pytest.mark.django_db(transaction=True)
async def test_sync_consumer_uses_the_orm() -> None:
    async with WebSocketClient("/sync/") as ws:
        await ws.send_text("count")
        assert await ws.receive_data() == "0"


async def test_scope_has_the_route_and_an_anonymous_user_without_a_log_in() -> None:
    async with WebSocketClient("/scope/lobby/7/", cookies={"theme": "dark"}) as ws:
        assert await ws.receive() == {
            "url_route": {"args": [], "kwargs": {"room": "lobby", "number": 7}},
            "user": str(AnonymousUser()),
            "session": None,
            "cookies": {"theme": "dark"},
            "path": "/scope/lobby/7/",
        }


async def test_scope_has_an_anonymous_user_without_any_middleware(settings: Settings) -> None:
    settings.WS_MIDDLEWARE = []
    async with WebSocketClient("/scope/lobby/7/") as ws:
        answer = await ws.receive()
    assert (answer["user"], answer["session"]) == (str(AnonymousUser()), None)


@pytest.mark.django_db(transaction=True)
async def test_scope_has_the_user_and_the_session_of_the_log_in() -> None:
    alice = await User.objects.acreate(username="alice")
    async with WebSocketClient("/scope/a/1/", user=alice, session={"colour": "blue"}) as ws:
        answer = await ws.receive()
    assert (answer["user"], answer["session"]) == ("alice", "blue")


async def test_origin_check_stands_in_front_of_a_consumer() -> None:
    with pytest.raises(HandshakeRejected) as refused:
        await WebSocketClient("/json/", origin="http://evil.example").__aenter__()
    assert refused.value.status == 403


def closed_door(func: Any) -> Any:
    async def middleware(ws: Any) -> None:
        await ws.reject(401)
        await func(ws)

    return middleware


async def test_middleware_stands_in_front_of_a_consumer(settings: Settings) -> None:
    settings.WS_MIDDLEWARE = [f"{__name__}.closed_door"]
    with pytest.raises(HandshakeRejected) as refused:
        await WebSocketClient("/json/").__aenter__()
    assert refused.value.status == 401


async def test_exception_in_connect_reaches_the_server(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(HandshakeRejected) as refused:
        await WebSocketClient("/broken/").__aenter__()
    assert isinstance(refused.value.__cause__, LookupError)
    # The server logs it, as it would without us: not a second time here.
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_exception_in_receive_reaches_the_server(caplog: pytest.LogCaptureFixture) -> None:
    async with WebSocketClient("/json/") as ws:
        await ws.send({"raise": "in receive"})
        with pytest.raises(ConnectionClosed) as closed:
            await ws.receive()
    assert isinstance(closed.value.__cause__, LookupError)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_time_limit_of_the_handshake_is_not_that_of_the_consumer(settings: Settings) -> None:
    settings.WS_CONNECT_TIMEOUT = 0.02
    async with WebSocketClient("/json/") as ws:
        await ws.receive_nothing(0.05)
        await ws.send("still there")
        assert await ws.receive() == {"echo": "still there"}
