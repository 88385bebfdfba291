"""How much of what a client sends the fast protocol takes apart at once, and what it does not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

from django_ws.server.protocol import reading
from django_ws.server.protocol.protocol import FastProtocol
from django_ws.server.protocol.reading import FRAGMENTS, FRAMES_IN_A_TURN
from tests.support.asgi_peer import until
from tests.support.wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    PING,
    PONG,
    TEXT,
    Client,
    frame,
)
from tests.unit.server.test_protocol import idle, uvicorns_logger  # noqa: F401  (a fixture)

PONGED = (FIN | PONG, b"")


def closed_with(client: Client, code: int, reason: bytes = b"") -> bool:
    """Whether a close was the last that it was sent."""
    return client.wire.closing and client.frames[-1] == (
        FIN | CLOSE,
        code.to_bytes(2, "big") + reason,
    )


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


# Turns of the event loop


async def test_only_so_many_frames_have_their_turn_at_once() -> None:
    client = await Client().open()
    await client.feed(frame(PING) * 500 + frame(TEXT, b"the last"))
    assert client.frames == [PONGED] * FRAMES_IN_A_TURN
    assert not client.wire.is_reading_
    await asyncio.sleep(0)
    assert len(client.frames) == 2 * FRAMES_IN_A_TURN
    await until(lambda: client.messages == ["the last"])
    assert client.frames == [PONGED] * 500
    assert client.wire.is_reading_
    await client.lose()


async def test_what_a_transport_gives_though_it_should_not_waits_as_well() -> None:
    client = await Client().open()
    await client.feed(frame(PING) * 100)
    client.protocol.data_received(frame(PING, b"later")[:3])
    client.protocol.data_received(frame(PING, b"later")[3:])
    await until(lambda: client.wire.is_reading_)
    assert client.frames == [PONGED] * 100 + [(FIN | PONG, b"later")]
    await client.lose()


async def test_however_much_it_gives_there_is_one_turn_at_a_time() -> None:
    client = await Client().open()
    client.protocol.data_received(frame(PING) * 200)
    client.protocol.data_received(frame(PING) * 200)
    assert len(client.frames) == 2 * FRAMES_IN_A_TURN
    await asyncio.sleep(0)
    assert len(client.frames) == 3 * FRAMES_IN_A_TURN
    await until(lambda: client.wire.is_reading_)
    assert client.frames == [PONGED] * 400
    await client.lose()


@pytest.mark.parametrize("size", [1, 5000])
async def test_only_so_many_messages_wait(size: int) -> None:
    """Small ones, and those that the general implementation reads: of these there is one."""
    client = await Client(ws_max_queue=5).open()
    client.receives.clear()
    await client.turns()
    await client.feed(b"".join(frame(BINARY, b"%04d" % n + b"x" * size) for n in range(50)))
    waiting = len(client.protocol.queue.waiting or ())
    assert waiting == (5 if size == 1 else 0)
    assert not client.wire.is_reading_
    client.receives.set()
    await until(lambda: len(client.messages) == 50)
    assert [int(message[:4]) for message in client.messages] == list(range(50))
    assert client.wire.is_reading_
    await client.lose()


async def test_a_close_behind_many_messages_comes_after_them() -> None:
    client = await Client(ws_max_queue=5).open()
    await client.feed(frame(TEXT, b"x") * 100 + frame(CLOSE, b"\x03\xe8"))
    await until(lambda: client.wire.closing)
    await client.lose()
    assert client.messages == ["x"] * 100
    assert client.events[-1] == {"type": "websocket.disconnect", "code": 1000, "reason": ""}


async def test_what_waits_goes_with_the_connection() -> None:
    client = await Client().open()
    await client.feed(frame(PING) * 500)
    await client.lose()
    await client.turns()
    assert client.frames == [PONGED] * FRAMES_IN_A_TURN


async def test_nothing_is_read_while_pongs_cannot_be_written() -> None:
    client = await Client().open()
    client.protocol.pause_writing()
    await client.feed(frame(PING) + frame(PING) * 20 + frame(TEXT, b"1"))
    await client.turns()
    assert client.frames == [PONGED]
    assert client.messages == []
    assert not client.wire.is_reading_
    client.protocol.resume_writing()
    await until(lambda: client.messages == ["1"])
    assert client.frames == [PONGED] * 21
    assert client.wire.is_reading_
    await client.lose()


async def test_messages_are_read_though_nothing_can_be_written() -> None:
    client = await Client().open()
    client.protocol.pause_writing()
    await client.feed(frame(TEXT, b"1"))
    await client.turns()
    assert client.messages == ["1"]
    client.protocol.resume_writing()
    await client.lose()


# What nobody needs so much of


@pytest.mark.parametrize("opcode", [PING, PONG])
async def test_too_many_control_frames_close(opcode: int, caplog: pytest.LogCaptureFixture) -> None:
    client = await Client().open(path=b"/a/path?secret")
    await client.feed(frame(opcode) * 1000, frame(TEXT, b"1"))
    await until(lambda: client.messages == ["1"])
    await client.feed(frame(opcode) * 2)
    assert closed_with(client, 1008, b"too many control frames")
    await client.lose()
    assert client.events[-1] == {
        "type": "websocket.disconnect",
        "code": 1008,
        "reason": "too many control frames",
    }
    assert warnings(caplog) == [
        "WebSocket /a/path closed with 1008: too many control frames (client 127.0.0.1)"
    ]


async def test_control_frames_are_forgotten_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CONTROL_FRAMES", 10)
    client = await Client().open()
    now = [1000.0]
    monkeypatch.setattr(client.protocol, "loop", Clock(now))
    for _ in range(5):
        await client.feed(frame(PING) * 10)
        now[0] += reading.CONTROL_SECONDS + 1
    assert client.frames == [PONGED] * 50
    monkeypatch.undo()
    await client.lose()


class Clock:
    """An event loop that only tells the time."""

    def __init__(self, now: list[float]) -> None:
        self.now = now

    def time(self) -> float:
        return self.now[0]


async def fragmented(client: Client, count: int, size: int) -> None:
    """A message in so many fragments, and one more that is its last."""
    part = b"x" * size
    data = frame(BINARY, part, flags=0)
    data += frame(CONTINUATION, part, flags=0, mask=bytes(4)) * (count - 1)
    await client.feed(data + frame(CONTINUATION, part))
    await until(lambda: client.wire.is_reading_ or client.wire.closing)


@pytest.mark.parametrize(("size", "count"), [(0, FRAGMENTS), (64, 10_000), (63, 10_000)])
async def test_a_message_may_have_many_fragments(size: int, count: int) -> None:
    client = await Client(ws_max_size=1 << 20).open()
    for _ in range(2):
        await fragmented(client, count - 1, size)
        await client.turns()
    await client.lose()
    assert client.messages == [b"x" * size * count] * 2


@pytest.mark.parametrize(("size", "count"), [(0, FRAGMENTS + 1), (1, 2000), (60, 30_000)])
async def test_too_many_small_fragments_close(
    size: int, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    client = await Client(ws_max_size=1 << 24).open()
    await fragmented(client, count, size)
    await until(lambda: client.wire.closing)
    assert closed_with(client, 1009, b"too many fragments")
    await client.lose()
    assert client.messages == []
    assert len(warnings(caplog)) == 1


async def test_without_this_uvicorns_class_takes_any_number() -> None:
    """Where it does not, ours may leave it to that."""
    client = await Client(WebSocketsSansIOProtocol).open()
    await client.feed(frame(TEXT, b"", flags=0) + frame(CONTINUATION, b"", flags=0) * 10_000)
    await client.feed(frame(PING) * 10_000)
    assert client.frames == [PONGED] * 10_000
    assert client.wire.is_reading_
    await client.lose()


@pytest.mark.parametrize(
    "bad",
    [
        [frame(TEXT, b"\xc3(")],
        [frame(TEXT, b"x" * 5000 + b"\xff")],
        [frame(TEXT, b"\xc3", flags=0), frame(CONTINUATION, b"(")],
    ],
    ids=["small", "large", "fragments"],
)
async def test_text_that_is_no_utf_8_closes_with_one_warning(
    bad: Sequence[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        client = await Client().open()
        await client.feed(*bad, frame(TEXT, b"not any more"))
        assert closed_with(client, 1007)
        await client.lose()
        assert client.messages == []
        assert client.events[-1]["code"] == 1007
    [line] = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert line.getMessage() == (
        "WebSocket /path closed with 1007: no valid UTF-8 (client 127.0.0.1)"
    )
    assert line.exc_info is None


async def test_uvicorns_class_logs_a_traceback_for_it(
    uvicorns_logger: logging.Logger,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where it does not, ours may leave the text to it."""
    client = await Client(WebSocketsSansIOProtocol).open()
    await client.feed(frame(TEXT, b"\xff"))
    await client.lose()
    [line] = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert line.exc_info is not None


async def test_who_sends_after_such_a_close_learns_that_the_client_has_gone() -> None:
    client = await idle()
    await client.feed(frame(TEXT, b"\xff"))
    for event in ({"type": "websocket.send", "text": "x"}, {"type": "websocket.close"}):
        with pytest.raises(ClientDisconnected):
            await client.send(event)
    await client.lose()


async def test_who_waits_to_send_meanwhile_learns_it_as_well() -> None:
    client = await Client().open()
    client.protocol.pause_writing()
    sending = asyncio.create_task(client.send({"type": "websocket.send", "text": "x"}))
    await client.turns()
    await client.feed(frame(TEXT, b"\xff"))
    client.protocol.resume_writing()
    with pytest.raises(ClientDisconnected):
        await sending
    await client.lose()


async def test_who_sends_after_an_own_close_has_made_a_mistake() -> None:
    client = await Client().open()
    await client.send({"type": "websocket.close", "code": 1000})
    with pytest.raises(RuntimeError, match=r"after sending 'websocket\.close'"):
        await client.send({"type": "websocket.send", "text": "x"})
    await client.lose()


async def test_uvicorns_class_takes_the_first_for_the_second() -> None:
    """Where it does not, ours need not look."""
    client = await Client(WebSocketsSansIOProtocol).open()
    await client.feed(b"\xff" * 20)
    with pytest.raises(RuntimeError, match=r"after sending 'websocket\.close'"):
        await client.send({"type": "websocket.send", "text": "x"})
    await client.lose()


# After our own close


async def closing(**options: Any) -> Client:
    client = await Client(**options).open()
    await client.send({"type": "websocket.close", "code": 4000})
    client.wire.written.clear()
    return client


async def test_nothing_but_a_close_is_looked_at() -> None:
    client = await closing()
    await client.feed(
        frame(PING) * 10,
        frame(TEXT, b"x") + frame(TEXT, b"\xff") + frame(BINARY, b"x" * 10_000),
        frame(CONTINUATION, b"x") + frame(PONG)[:3],
        frame(PONG)[3:] + frame(CLOSE, b"\x03\xe8")[:1],
    )
    assert client.wire.written == []
    assert not client.wire.closing
    await client.feed(frame(CLOSE, b"\x03\xe8")[1:] + frame(PING))
    assert client.wire.closing
    await client.lose()
    assert client.messages == []


async def test_the_time_for_the_clients_close_is_not_waited_out() -> None:
    client = await closing()
    timer = client.protocol.close_timer
    await client.feed(frame(CLOSE))
    assert timer.cancelled()
    assert client.protocol.close_timer is None
    await client.lose()


@pytest.mark.parametrize("bad", [b"\x00\x00\x00", frame(3), frame(TEXT, b"x", mask=None)])
async def test_what_is_no_frame_ends_it(bad: bytes) -> None:
    client = await closing()
    await client.feed(bad)
    assert client.wire.closing
    await client.lose()


@pytest.mark.parametrize("cut", [3, 2000, 6000])
async def test_a_message_that_was_half_sent_is_skipped(cut: int) -> None:
    client = await Client().open()
    message = frame(BINARY, b"x" * 5000)
    await client.feed(message[:cut])
    await client.send({"type": "websocket.close", "code": 4000})
    await client.feed(message[cut:] + frame(CLOSE))
    assert client.wire.closing
    await client.lose()


async def test_a_close_that_was_held_is_found() -> None:
    """It was sent before ours, behind messages for which it was not the time."""
    client = await Client(ws_max_queue=2).open()
    client.receives.clear()
    await client.turns()
    await client.feed(frame(TEXT, b"x") * 20 + frame(CLOSE))
    assert not client.wire.closing
    await client.send({"type": "websocket.close", "code": 4000})
    await until(lambda: client.wire.closing)
    await client.lose()


async def test_many_frames_are_skipped_in_turns() -> None:
    client = await closing()
    await client.feed(frame(PONG) * 9000 + frame(CLOSE))
    assert not client.wire.closing
    assert not client.wire.is_reading_
    await until(lambda: client.wire.closing)
    await client.lose()


async def test_who_sends_on_is_cut_off() -> None:
    client = await closing(ws_max_size=100_000)
    big = frame(BINARY, b"x" * 100_000)
    await client.feed(big, frame(PONG) * 10_000)
    await until(lambda: client.wire.is_reading_)
    assert not client.wire.closing
    await client.feed(frame(PONG) * 2000)
    assert client.wire.aborted
    await client.lose()


# The handshake, as uvicorn's HTTP protocols hand it over


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST / HTTP/1.1", b"405 Method Not Allowed"),
        (b"GET / HTTP/1.1\r\ncontent-length: 5", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\ntransfer-encoding: chunked", b"400 Bad Request"),
        (b"GET /\xc3\xa9 HTTP/1.1", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\norigin\xff: x", b"400 Bad Request"),
        (b"GET / HTTP/1.1", b"426 Upgrade Required"),  # by the library
    ],
)
async def test_a_handshake_that_is_none_is_answered(head: bytes, status: bytes) -> None:
    client = Client()
    client.protocol.data_received(head + b"\r\n\r\n")
    assert client.output.startswith(b"HTTP/1.1 " + status)
    assert client.wire.closing
    assert not client.state.tasks


async def test_a_handshake_may_be_larger_than_the_library_likes() -> None:
    headers = [b"cookie: " + b"x" * 20_000, *[b"x-header: y"] * 200]
    client = await Client().open(path=b"/?" + b"x" * 20_000, accept=False, headers=headers)
    assert len(client.scope["headers"]) > 200
    await client.lose()


# Before the handshake is answered


async def test_frames_wait_for_the_answer_to_the_handshake() -> None:
    client = await Client().open(accept=False)
    await client.feed(frame(PING, b"early") + frame(TEXT, b"1"))
    assert client.wire.written == []
    assert not client.wire.is_reading_
    await client.accept()  # which looks at what comes first
    await until(lambda: client.messages == ["1"])
    assert client.frames == [(FIN | PONG, b"early")]
    assert client.wire.is_reading_
    await client.lose()


async def test_frames_behind_a_handshake_that_is_refused_are_nothing() -> None:
    client = await Client().open(accept=False)
    await client.feed(frame(PING) + frame(TEXT, b"1"))
    await client.send({"type": "websocket.close", "code": 1000})
    await client.turns()
    assert client.output.startswith(b"HTTP/1.1 403 ")
    assert client.output.endswith(b"\r\n\r\n")
    await client.lose()
    assert client.messages == []


async def test_uvicorns_class_answers_a_ping_before_the_handshake() -> None:
    """Where it does not, ours may leave this to it."""
    client = await Client(WebSocketsSansIOProtocol).open(accept=False)
    await client.feed(frame(PING))
    assert client.frames == [PONGED]
    await client.lose()


# The end of the server


@pytest.mark.parametrize("kind", [FastProtocol, WebSocketsSansIOProtocol])
async def test_the_server_may_end_when_the_client_has_just_closed(kind: type[Any]) -> None:
    """uvicorn's class raises; where it does not, ours need not look."""
    client = await Client(kind).open()
    await client.feed(frame(CLOSE, b"\x03\xe8"))
    client.wire.written.clear()
    if kind is FastProtocol:
        client.protocol.shutdown()
    else:
        with pytest.raises(InvalidState):
            client.protocol.shutdown()
    assert client.wire.written == []
    await client.lose()


@pytest.mark.parametrize("kind", [FastProtocol, WebSocketsSansIOProtocol])
async def test_a_handshake_under_way_is_answered_as_those_that_come_now(kind: type[Any]) -> None:
    """uvicorn's class answers 500, and is taken by surprise by the application's own answer."""
    client = await Client(kind).open(accept=False)
    client.protocol.shutdown()
    answer = {"type": "websocket.http.response.start", "status": 503, "headers": []}
    if kind is FastProtocol:
        assert client.output.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: " in client.output
        with pytest.raises(ClientDisconnected):
            await client.protocol.send(answer)
        assert client.output.count(b"HTTP/1.1 ") == 1
    else:
        assert client.output.startswith(b"HTTP/1.1 500 ")
        await client.protocol.send(answer)
        with pytest.raises(AssertionError):
            await client.protocol.send({"type": "websocket.http.response.body", "body": b""})
    await client.lose()
