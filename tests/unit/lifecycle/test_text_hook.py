"""on_text: raw text before the codec, for clients that send more than the codec's messages."""

from typing import Any

import pytest

from django_ws import Reject, WebSocketHandler
from tests.support.asgi_peer import Peer, client, until

each_kind = pytest.mark.parametrize("kind", ["async", "sync"])


class Pinged(WebSocketHandler):
    async def on_message(self, message: Any) -> None:
        await self.send({"got": message})

    async def on_bytes(self, data: bytes) -> None:
        await self.send({"bytes": len(data)})


def answers_ping(kind: str) -> type[WebSocketHandler]:
    async def on_text(self: Any, text: str) -> bool:
        if text != "ping":
            return False
        await self.send_text("pong")
        return True

    def sync_on_text(self: Any, text: str) -> bool:
        if text != "ping":
            return False
        self.send_text("pong")
        return True

    hook = on_text if kind == "async" else sync_on_text
    return type("Handler", (Pinged,), {"on_text": hook})


@each_kind
async def test_a_bare_ping_beside_json(kind: str) -> None:
    async with client(answers_ping(kind)) as ws:
        await ws.send_text("ping")
        assert await ws.receive_data() == "pong"
        await ws.send({"a": 1})
        assert await ws.receive() == {"got": {"a": 1}}
        await ws.send_bytes(b"ping")
        assert await ws.receive() == {"bytes": 4}


@each_kind
async def test_what_it_leaves_to_the_codec_may_still_be_undecodable(kind: str) -> None:
    async with client(answers_ping(kind)) as ws:
        await ws.send_text("pong")
        assert await ws.wait_closed() == 1007


async def test_without_a_result_the_text_is_a_message_too() -> None:
    class Handler(Pinged):
        async def on_text(self, text: str) -> None:
            await self.send_text(text)

    async with client(Handler) as ws:
        await ws.send_text("1")
        assert await ws.receive_data() == "1"
        assert await ws.receive() == {"got": 1}


async def test_after_a_close_in_it_the_text_is_no_message() -> None:
    handled: list[Any] = []

    class Handler(WebSocketHandler):
        async def on_text(self, text: str) -> None:
            await self.close(4000)

        async def on_message(self, message: Any) -> None:
            handled.append(message)

    async with client(Handler) as ws:
        await ws.send_text("1")
        assert await ws.wait_closed() == 4000
    assert handled == []


async def test_what_it_raises_is_answered_as_in_any_hook(caplog: pytest.LogCaptureFixture) -> None:
    class Handler(WebSocketHandler):
        async def on_text(self, text: str) -> None:
            raise ZeroDivisionError if text == "error" else Reject(403)

    for text, code in [("error", 1011), ("refuse", 4403)]:
        async with Peer(Handler) as peer:
            peer.say(text)
            await peer.ended()
            assert [each for each, _ in peer.closes] == [code]
    assert "exception in on_text" in caplog.messages[0]
    assert caplog.messages[-1] == "WebSocket /ws/ closed with 4403: Reject in on_text"


async def test_it_is_in_the_way_of_no_close() -> None:
    class Handler(Pinged):
        async def on_text(self, text: str) -> bool:
            await until(lambda: self.closed)
            return True

    async with Peer(Handler) as peer:
        peer.say("1")
        peer.leave(code=1000)
        await peer.ended()
        assert peer.handler.close_code == 1000
