"""A socket that is logged in by its first message: before it nothing happens, whatever comes."""

import asyncio
import logging
from typing import Any

import pytest
from django.contrib.auth.models import User
from pytest_django import Settings

from django_ws import ConnectionClosed, Reject, WebSocketHandler, abroadcast
from django_ws.auth import FirstMessageAuthMixin
from django_ws.auth.login import Login
from django_ws.exceptions import StateError
from django_ws.testing import WebSocketClient
from tests.support.asgi_peer import PATH, SECONDS, Peer, client, handlers, the_handler, turns, until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("alice")]

SECRET = "right-token"
happened: list[str] = []


@pytest.fixture(autouse=True)
def nothing_happened() -> None:
    happened.clear()


class TokenHandler(WebSocketHandler):
    """Knows one token; notes each hook that runs."""

    topics = ("room",)

    async def authenticate_first(self, message: Any) -> Login | None:
        if message != SECRET:
            return None
        return Login(await User.objects.aget(username="alice"))

    async def on_connect(self) -> None:
        happened.append("on_connect")

    async def on_open(self) -> None:
        happened.append("on_open")
        await self.send(f"hello {self.request.user}")

    async def on_message(self, message: Any) -> None:
        happened.append(f"on_message {message}")
        await self.send(message)

    async def on_error(self, error: BaseException) -> None:
        happened.append("on_error")

    async def on_close(self) -> None:
        happened.append("on_close")


async def closes(ws: WebSocketClient, code: int = 4401) -> None:
    with pytest.raises(ConnectionClosed):
        await ws.receive()
    assert ws.close_code == code


async def test_a_valid_token_opens_the_connection() -> None:
    async with client(TokenHandler) as ws:
        assert happened == []
        await ws.send(SECRET)
        assert await ws.receive() == "hello alice"
        await ws.send("hi")
        assert await ws.receive() == "hi"
        await abroadcast("room", "to the room")
        assert await ws.receive() == "to the room"
    assert happened == ["on_connect", "on_open", "on_message hi", "on_close"]


async def test_messages_that_came_with_the_token_are_handled_after_it() -> None:
    async with client(TokenHandler) as ws:
        for message in (SECRET, "one", "two"):
            await ws.send(message)
        assert [await ws.receive() for _ in range(3)] == ["hello alice", "one", "two"]


@pytest.mark.parametrize("message", ["wrong", {"token": SECRET}, None, [], 5])
async def test_anything_else_closes(message: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with client(TokenHandler) as ws:
        for each in (message, SECRET, "pipelined"):
            await ws.send(each)
        await closes(ws)
        assert ws.close_reason == "Unauthorized"
    assert happened == []
    assert "no valid token came as the first message: closed with 4401" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("data", ["{no json", b"\xff", "x" * 2000])
async def test_what_cannot_be_decoded_or_is_too_large_closes(data: Any, settings: Settings) -> None:
    settings.WS_MAX_MESSAGE_SIZE = 1000
    async with client(TokenHandler) as ws:
        await (ws.send_text(data) if isinstance(data, str) else ws.send_bytes(data))
        await closes(ws)
    assert happened == []


async def test_the_time_is_up(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    class Impatient(TokenHandler):
        first_message_seconds = 0.05

    async with client(Impatient) as ws:
        await closes(ws)
    assert happened == []
    assert "no first message came in 0.05 s" in caplog.text


async def test_the_token_may_take_longer_than_the_handshake(settings: Settings) -> None:
    settings.WS_CONNECT_TIMEOUT = 0.02
    async with client(TokenHandler) as ws:
        await ws.receive_nothing()  # for longer than that
        settings.WS_CONNECT_TIMEOUT = SECONDS  # of what comes then
        await ws.send(SECRET)
        assert await ws.receive() == "hello alice"


async def test_who_leaves_before_the_token(caplog: pytest.LogCaptureFixture) -> None:
    async with Peer(TokenHandler) as peer:
        peer.leave()
        await peer.ended()
        assert [event["type"] for event in peer.sent] == ["websocket.accept"]
        assert peer.handler.closed
    assert happened == []
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_a_server_that_does_not_take_the_accept() -> None:
    async with Peer(TokenHandler, opens=False) as peer:
        peer.send_error = OSError("gone")
        await peer.ended()
    assert happened == []


async def test_nothing_can_be_sent_and_nothing_arrives_before() -> None:
    async with client(TokenHandler) as ws:
        handler = the_handler()
        with pytest.raises(StateError):
            handler.send("too early")
        await abroadcast("room", "nobody is there")
        await ws.receive_nothing()
        await ws.send(SECRET)
        assert await ws.receive() == "hello alice"
        await ws.receive_nothing()


async def test_it_is_closed_while_the_token_is_looked_at() -> None:
    class Slow(TokenHandler):
        async def authenticate_first(self, message: Any) -> Login | None:
            await self.close(4403)
            return await super().authenticate_first(message)

    async with client(Slow) as ws:
        await ws.send(SECRET)
        await closes(ws, 4403)
    assert happened == []


async def test_by_default_no_message_logs_in() -> None:
    class Asking(TokenHandler):
        async def authenticate_first(self, message: Any) -> Login | None:
            login: Login | None = await WebSocketHandler.authenticate_first(self, message)
            return login

    async with client(Asking) as ws:
        await ws.send(SECRET)
        await closes(ws)


async def test_an_error_in_it_is_no_log_in() -> None:
    class Broken(TokenHandler):
        async def authenticate_first(self, message: Any) -> Login | None:
            raise LookupError("a defect")

    async with client(Broken) as ws:
        await ws.send(SECRET)
        await closes(ws, 1011)
        assert isinstance(ws.error, LookupError)
    assert happened == []


async def test_on_connect_may_reject_after_it() -> None:
    class Choosy(TokenHandler):
        async def on_connect(self) -> None:
            raise Reject(403, "not you")

    async with client(Choosy) as ws:
        await ws.send(SECRET)
        await closes(ws, 4403)
        assert ws.close_reason == "not you"
    assert happened == []


async def test_the_log_in_is_watched() -> None:
    async with client(TokenHandler) as ws:
        await ws.send(SECRET)
        await ws.receive()
        await User.objects.all().adelete()
        await closes(ws)


async def test_the_users_number_of_connections_counts(settings: Settings) -> None:
    settings.WS_MAX_CONNECTIONS_PER_USER = 1
    async with client(TokenHandler) as first, WebSocketClient(PATH) as second:
        await first.send(SECRET)
        await first.receive()
        await second.send(SECRET)
        await closes(second, 4429)
    assert len(handlers) == 0


async def test_a_plain_function_runs_in_a_thread() -> None:
    class Sync(TokenHandler):
        def authenticate_first(self, message: Any) -> Any:
            return Login(User.objects.get(username="alice")) if message == SECRET else None

    async with client(Sync) as ws:
        await ws.send(SECRET)
        assert await ws.receive() == "hello alice"


async def test_a_server_that_stops_while_it_waits() -> None:
    async with Peer(TokenHandler) as peer:
        await turns()
        peer.task.cancel()
        await asyncio.wait([peer.task])
        assert happened == []
        await until(lambda: peer.task.done())


def test_the_mixin_is_one() -> None:
    assert "authenticate_first" in FirstMessageAuthMixin._hooks.overridden
    assert "authenticate_first" not in WebSocketHandler._hooks.overridden
