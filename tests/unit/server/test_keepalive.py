"""When a connection counts as dead: nothing came for so long, though the server would have read."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from django_ws.server.protocol import keepalive
from tests.support.asgi_peer import until
from tests.support.wire import BINARY, CLOSE, FIN, PING, PONG, TEXT, Client, frame

SHORT: dict[str, Any] = {"ws_ping_interval": 0.02, "ws_ping_timeout": 0.02}
PINGED, CLOSED = FIN | PING, FIN | CLOSE
DEATH = {
    "type": "websocket.disconnect",
    "code": 1011,
    "reason": "keepalive ping timeout",
}


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepalive, "GRACE_SECONDS", 0.02)


def pings(client: Client) -> int:
    return sum(first == PINGED for first, _ in client.frames)


async def pinged(client: Client, count: int) -> None:
    """Until it was pinged so many more times."""
    before = pings(client)
    await until(lambda: pings(client) >= before + count or client.wire.closing)
    assert not client.wire.closing


async def dead(client: Client) -> None:
    await until(lambda: client.wire.closing)


def answered(client: Client) -> bytes:
    return frame(PONG, client.frames[-1][1])


async def test_a_client_that_says_nothing_is_closed_and_the_application_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "uvicorn.error")
    for _ in range(3):
        client = await Client(**SHORT).open(path=b"/a/b?secret")
        await dead(client)
        assert client.frames[-1] == (CLOSED, b"\x03\xf3keepalive ping timeout")
        await client.lose()
        assert client.events[1:] == [DEATH]
    lines = [each.getMessage() for each in caplog.records if "ping" in each.getMessage()]
    [line] = lines
    assert line == (
        "WebSocket /a/b: nothing came from the client (127.0.0.1) for 0.02 s after a ping: "
        "closed with 1011"
    )


async def test_uvicorns_class_tells_neither_the_application_nor_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where it does, ours need not."""
    caplog.set_level(logging.INFO, "uvicorn.error")
    client = await Client(WebSocketsSansIOProtocol, **SHORT).open()
    await until(lambda: client.wire.closing)
    await client.lose()
    assert client.events[1:] == [{"type": "websocket.disconnect", "code": 1005}]
    assert "ping" not in caplog.text


async def test_pongs_keep_it_open() -> None:
    client = await Client(**SHORT).open()
    for _ in range(5):
        await pinged(client, 1)
        await client.feed(answered(client))
    await client.lose()


@pytest.mark.parametrize(
    "data",
    [frame(TEXT, b"x"), frame(PING), frame(PONG, b"unasked"), frame(BINARY, b"x" * 5000)[:100]],
    ids=["message", "ping", "pong", "part of a message"],
)
async def test_all_that_comes_keeps_it_open(data: bytes) -> None:
    """Not the answer alone: it may come behind a message that takes a minute."""
    client = await Client(**SHORT).open()
    for _ in range(5):
        await pinged(client, 1)
        await client.feed(data)
    await client.lose()


async def test_nothing_is_missed_while_the_application_is_behind() -> None:
    """The pong waits behind the messages that the server does not read."""
    client = await Client(ws_max_queue=2, **SHORT).open()
    client.receives.clear()
    await client.turns()
    await client.feed(frame(TEXT, b"x") * 10)
    assert not client.wire.is_reading_
    await pinged(client, 5)
    client.receives.set()
    await until(lambda: len(client.messages) == 10)
    await until(lambda: client.wire.closing)  # and from then on nothing comes
    await client.lose()


async def test_after_a_pause_the_client_has_all_its_time() -> None:
    """What it sent meanwhile has yet to be read, when the time of the last ping is over."""
    client = await idle_with_pings()
    await client.feed(frame(BINARY, b"x" * 5000))
    assert not client.wire.is_reading_
    await pinged(client, 2)
    await client.receive()
    assert client.wire.is_reading_
    client.protocol.keepalive_timeout()
    client.protocol.keepalive_timeout()
    assert not client.wire.closing
    await client.lose()


async def idle_with_pings() -> Client:
    client = Client(**SHORT)
    client.receives.clear()
    await client.open()
    await client.receive()
    return client


async def test_uvicorns_class_misses_the_pong_meanwhile() -> None:
    """Where it does not, ours need not look."""
    client = Client(WebSocketsSansIOProtocol, **SHORT)
    client.receives.clear()
    await client.open()
    await client.feed(frame(TEXT, b"x"))
    assert not client.wire.is_reading_
    await until(lambda: client.wire.closing)
    await client.lose()


async def test_what_came_while_the_event_loop_was_busy_counts() -> None:
    client = await Client(**SHORT).open()
    loop = asyncio.get_running_loop()
    for _ in range(3):
        await pinged(client, 1)
        time.sleep(0.04)  # noqa: ASYNC251  # which is what this is about
        # The timer rings first; the bytes, which have long been there, are read after it.
        loop.call_later(0, client.protocol.data_received, answered(client))
    await pinged(client, 1)
    await client.lose()


async def test_a_client_that_does_not_read_its_pongs_is_dead_in_the_end() -> None:
    client = await Client(**SHORT).open()
    client.protocol.pause_writing()
    await client.feed(frame(PING))
    assert not client.wire.is_reading_
    await until(lambda: client.wire.closing)
    await client.lose()


async def test_a_client_that_reads_slowly_lives() -> None:
    client = await Client(**SHORT).open()
    client.protocol.pause_writing()
    await client.feed(frame(PING))
    for _ in range(5):
        await pinged(client, 1)
        client.protocol.resume_writing()
        client.protocol.pause_writing()
    client.protocol.resume_writing()
    await client.lose()


async def test_without_a_time_out_pings_go_on_for_ever() -> None:
    client = await Client(ws_ping_interval=0.01, ws_ping_timeout=None).open()
    await pinged(client, 5)
    await client.lose()


async def test_a_ping_that_is_due_after_the_close_is_not_sent() -> None:
    client = await Client(**SHORT).open()
    await pinged(client, 1)
    await client.send({"type": "websocket.close", "code": 1000})
    count = pings(client)
    await asyncio.sleep(0.1)
    assert pings(client) == count
    assert not client.wire.closing  # the close has its own time-out
    await client.lose()
