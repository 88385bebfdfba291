"""InvalidMessage: the handler's own code says that the client sent nonsense."""

import asyncio
import logging
from typing import Any

import pytest
from django.core.signals import got_request_exception

from django_ws import WebSocketHandler, abroadcast
from django_ws.exceptions import InvalidMessage
from django_ws.testing import HandshakeRejected
from tests.support.asgi_peer import Peer, client, until

each_kind = pytest.mark.parametrize("kind", ["async", "sync"])


def raises(kind: str, reason: str = "no text") -> Any:
    async def hook(self: Any, *args: Any) -> None:
        raise InvalidMessage(reason)

    def sync_hook(self: Any, *args: Any) -> None:
        raise InvalidMessage(reason)

    return hook if kind == "async" else sync_hook


@each_kind
@pytest.mark.parametrize("name", ["on_open", "on_message", "on_bytes", "on_broadcast"])
async def test_it_closes_with_1008_and_the_reason_and_is_no_error(
    name: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    reported: list[Any] = []

    def note(**told: Any) -> None:
        reported.append(told)

    got_request_exception.connect(note)
    Handler: Any = type("Handler", (WebSocketHandler,), {"topics": ["a"], name: raises(kind)})
    async with Peer(Handler) as peer:
        if name == "on_bytes":
            peer.feed({"type": "websocket.receive", "bytes": b"1"})
        elif name == "on_broadcast":
            await abroadcast("a", 1)
        else:
            peer.say("1")
        await peer.ended()
        assert peer.closes == [(1008, "no text")]
    got_request_exception.disconnect(note)
    assert reported == []
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.exc_info is None
    assert record.getMessage() == f"WebSocket /ws/: invalid message: no text (in {name})"


@each_kind
async def test_on_invalid_message_decides_and_the_next_message_is_handled(kind: str) -> None:
    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            if message == "bad":
                raise InvalidMessage("it is bad")
            await self.send(message)

    async def answer(self: Any, error: InvalidMessage) -> None:
        await self.send({"error": error.reason})

    def sync_answer(self: Any, error: InvalidMessage) -> None:
        self.send({"error": error.reason})

    hook = answer if kind == "async" else sync_answer
    Deciding: Any = type("Deciding", (Handler,), {"on_invalid_message": hook})
    async with client(Deciding) as ws:
        await ws.send("bad")
        await ws.send("good")
        assert await ws.receive() == {"error": "it is bad"}
        assert await ws.receive() == "good"


async def test_what_follows_an_invalid_message_is_not_handled_by_default() -> None:
    seen = []

    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            seen.append(message)
            raise InvalidMessage

    async with Peer(Handler) as peer:
        peer.say("1", "2")
        await peer.ended()
        assert peer.closes == [(1008, "")]
    assert seen == [1]


async def test_an_exception_in_on_invalid_message_is_an_error_like_any_other() -> None:
    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            raise InvalidMessage

        async def on_invalid_message(self, error: InvalidMessage) -> None:
            raise ZeroDivisionError

    async with Peer(Handler) as peer:
        peer.say("1", "2")
        await peer.ended()
        assert [code for code, _ in peer.closes] == [1011]


@pytest.mark.parametrize("name", ["on_invalid_message", "on_error"])
@each_kind
async def test_hooks_that_answer_an_error_end_the_connection_with_it(
    name: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            raise InvalidMessage("first") if name == "on_invalid_message" else ZeroDivisionError

    Deciding: Any = type("Deciding", (Handler,), {name: raises(kind, "second")})
    async with Peer(Deciding) as peer:
        peer.say("1", "2")
        await peer.ended()
        assert peer.closes == [(1008, "second")]
    assert caplog.messages[-1].endswith(f"invalid message: second (in {name})")
    assert len(caplog.messages) == 2


async def test_after_the_close_it_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    asked = []

    class Handler(WebSocketHandler):
        on_close = raises("async")

        async def on_invalid_message(self, error: InvalidMessage) -> None:
            asked.append(error)

    async with Peer(Handler) as peer:
        peer.leave()
        await peer.ended()
    assert asked == []
    assert caplog.records == []


async def test_before_the_accept_it_refuses_the_handshake_with_400() -> None:
    class Handler(WebSocketHandler):
        on_connect = raises("async")

    with pytest.raises(HandshakeRejected) as refused:
        async with client(Handler):
            pass
    assert refused.value.status == 400


async def test_the_first_message_of_a_log_in_that_is_invalid_is_no_log_in() -> None:
    class Handler(WebSocketHandler):
        authenticate_first = raises("async")

    async with Peer(Handler) as peer:
        peer.say("1")
        await peer.ended()
        assert [code for code, _ in peer.closes] == [4401]


async def test_a_client_cannot_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    handled = asyncio.Event()

    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            if message == "last":
                handled.set()
            raise InvalidMessage("line\nbreak")

        async def on_invalid_message(self, error: InvalidMessage) -> None: ...

    async with Peer(Handler) as peer:
        peer.say(*["1"] * 500, '"last"')
        await until(handled.is_set)
    assert caplog.messages == ["WebSocket /ws/: invalid message: line\\nbreak (in on_message)"]


def test_it_is_a_value_error_with_a_reason() -> None:
    error = InvalidMessage("why")
    assert isinstance(error, ValueError)
    assert (error.reason, str(error)) == ("why", "invalid message: why")
    assert str(InvalidMessage()) == "invalid message"
