"""The short paths of the fast protocol, and what they leave to uvicorn's class."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.server import ServerProtocol

from django_ws.connection.shared_frames import NAME, FrameExtension, extension_of
from django_ws.server.config import ws_protocol
from django_ws.server.protocol.frames import Frames
from django_ws.server.protocol.protocol import FastProtocol
from tests.support.asgi_peer import until
from tests.support.wire import BINARY, CLOSE, FIN, PING, RSV1, TEXT, Client, frame

LENGTHS = [0, 1, 125, 126, 127, 65535, 65536, 70_000]


@pytest.fixture
def uvicorns_logger() -> Iterator[logging.Logger]:
    """Without the filters of servers that other tests have configured."""
    logger = logging.getLogger("uvicorn.error")
    level, filters = logger.level, logger.filters
    logger.filters = []
    yield logger
    logger.setLevel(level)
    logger.filters = filters


def extension(client: Client) -> FrameExtension:
    found: FrameExtension = client.scope["extensions"][NAME]
    return found


# What it relies on


async def test_uvicorns_class_still_has_what_is_used_of_it() -> None:
    """None of it is documented. Compare the two classes again where this fails."""
    methods = (
        *("connection_made", "data_received", "pause_writing", "resume_writing", "shutdown"),
        *("run_asgi", "on_task_complete", "send", "receive"),
    )
    assert [name for name in methods if name not in vars(WebSocketsSansIOProtocol)] == []
    assert inspect.iscoroutinefunction(WebSocketsSansIOProtocol.run_asgi)
    client = Client(WebSocketsSansIOProtocol)
    attributes = (
        *("conn", "handshake_initiated", "logger", "loop", "queue", "read_paused", "transport"),
        *("connections", "tasks"),
    )
    assert [name for name in attributes if name not in vars(client.protocol)] == []
    # Of its queue it uses no more than ours has.
    source = inspect.getsource(WebSocketsSansIOProtocol)
    assert source.count("self.queue") == 1 + source.count("self.queue.put_nowait(") + sum(
        source.count(f"self.queue.{used}") for used in ("get()", "empty()")
    )
    assert "self.queue" not in inspect.getsource(WebSocketsSansIOProtocol.send).replace(
        "self.queue.put_nowait(", ""
    )


async def test_the_library_still_has_what_is_used_of_it() -> None:
    client = await Client(deflate=True).open()
    assert isinstance(client.protocol.conn, ServerProtocol)
    deflate: Any
    [deflate] = client.protocol.conn.extensions
    assert deflate.local_max_window_bits == 12
    assert deflate.local_no_context_takeover
    await client.lose()


# The extension


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("deflate", [False, True])
async def test_frames_are_written_as_send_would_write_them(length: int, deflate: bool) -> None:
    one, other = await Client(deflate=deflate).open(), await Client().open()
    text, data = "x" * length, b"\xff" * length
    offered = extension(one)
    assert offered["write"](offered["prepare"]([text, data]))
    await other.send({"type": "websocket.send", "text": text})
    await other.send({"type": "websocket.send", "bytes": data})
    written = [(first & ~RSV1, payload) for first, payload in one.frames]
    if deflate and length > 255:
        assert [first & RSV1 for first, _ in one.frames] == [RSV1, RSV1]
        written = [(first, inflated(payload)) for first, payload in written]
    assert written == other.frames == [(FIN | TEXT, text.encode()), (FIN | BINARY, data)]
    await one.lose()
    await other.lose()


def inflated(payload: bytes, bits: int = 12) -> bytes:
    return zlib.decompressobj(wbits=-bits).decompress(payload + b"\x00\x00\xff\xff")


async def test_frames_are_one_write_and_are_made_once_for_all() -> None:
    clients = [await Client().open() for _ in range(3)]
    prepare = extension(clients[0])["prepare"]
    frames = prepare(["a", "b"])
    for client in clients:
        assert extension(client)["prepare"] is prepare
        assert extension(client)["write"](frames)
    assert [client.wire.written for client in clients] == [[b"\x81\x01a\x81\x01b"]] * 3
    assert {id(client.wire.objects[-1]) for client in clients} == {id(frames.plain)}
    for client in clients:
        await client.lose()


async def test_only_who_was_called_with_the_servers_send_may_use_it() -> None:
    async def between(event: Any) -> None: ...

    client = await Client().open()
    assert extension_of(client.scope, client.send) is extension(client)
    assert extension_of(client.scope, between) is None
    await client.lose()


@pytest.mark.parametrize("name", ["write", "write_message"])
async def test_nothing_is_written_where_send_would_wait_or_fail(name: str) -> None:
    client = await Client().open(accept=False)

    def write() -> bool:
        offered = extension(client)
        if name == "write_message":
            return offered["write_message"]("x")
        return offered["write"](offered["prepare"](["x"]))

    assert not write()  # before the accept
    await client.accept()
    assert write()
    client.protocol.pause_writing()
    assert not write()
    client.protocol.resume_writing()
    assert write()
    assert client.frames == [(FIN | TEXT, b"x")] * 2
    client.wire.written.clear()
    await client.send({"type": "websocket.close", "code": 1000})
    assert not write()  # after our close, before the client's
    client.protocol.pause_writing()
    client.protocol.resume_writing()
    assert not write()
    assert client.frames == [(FIN | CLOSE, b"\x03\xe8")]
    await client.lose()


async def test_nothing_is_written_once_the_transport_closes() -> None:
    client = await Client().open()
    offered = extension(client)
    client.wire.close()
    assert not offered["write"](offered["prepare"](["x"]))
    assert not offered["write_message"]("x")
    assert client.wire.written == []
    await client.lose()


async def test_nothing_is_written_after_the_server_was_told_to_end() -> None:
    client = await Client().open()
    offered = extension(client)
    client.protocol.shutdown()
    client.wire.closing = False  # were it to wait for the client
    assert not offered["write_message"]("x")
    await client.feed(frame(TEXT, b"too late"))
    assert client.frames == [(FIN | CLOSE, b"\x03\xf4")]
    await client.lose()
    assert client.messages == []


@pytest.mark.parametrize("message", ["x" * 65_536, b"x" * 65_536, "\ud800"])
async def test_a_message_that_is_not_for_the_short_path(message: str | bytes) -> None:
    client = await Client().open()
    assert not extension(client)["write_message"](message)
    assert client.wire.written == []
    await client.lose()


async def test_the_extension_goes_with_the_application() -> None:
    """It refers to the connection, which refers to the scope."""
    client = await Client().open()
    await client.lose()
    assert client.scope["extensions"] == {"websocket.http.response": {}}


async def test_with_debug_logging_all_goes_the_long_way(
    uvicorns_logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    uvicorns_logger.setLevel(logging.DEBUG)
    client = await Client().open()
    assert NAME not in client.scope["extensions"]
    await client.feed(frame(TEXT, b"in"))
    await client.send({"type": "websocket.send", "text": "out"})
    await client.lose()
    logged = [record.getMessage() for record in caplog.records]
    assert any("< TEXT 'in'" in line for line in logged)
    assert any("> TEXT 'out'" in line for line in logged)


# Sending


async def test_send_waits_while_the_client_reads_too_slowly() -> None:
    client = await Client().open()
    client.protocol.pause_writing()
    sending = asyncio.create_task(client.send({"type": "websocket.send", "text": "x"}))
    await client.turns()
    assert not sending.done()
    client.protocol.resume_writing()
    await sending
    assert client.frames == [(FIN | TEXT, b"x")]
    await client.lose()


async def test_send_after_the_loss_raises() -> None:
    client = await Client().open()
    await client.lose()
    with pytest.raises(ClientDisconnected):
        await client.send({"type": "websocket.send", "text": "x"})


async def test_bytes_come_before_text_as_in_uvicorns_class() -> None:
    client = await Client().open()
    await client.send({"type": "websocket.send", "bytes": b"", "text": "x"})
    await client.send({"type": "websocket.send", "bytes": None, "text": "x"})
    await client.send({"type": "websocket.send"})
    assert client.frames == [(FIN | BINARY, b""), (FIN | TEXT, b"x")]
    await client.lose()


# Receiving


async def test_small_messages_go_past_uvicorns_class(monkeypatch: pytest.MonkeyPatch) -> None:
    general, apart = [], []
    client = await Client().open()
    read, take_apart = WebSocketsSansIOProtocol.data_received, FastProtocol._take_apart

    def noting_read(self: Any, data: bytes) -> None:
        general.append(len(data))
        read(self, data)

    def noting_take_apart(self: Any, data: bytes) -> None:
        apart.append(len(data))
        take_apart(self, data)

    monkeypatch.setattr(WebSocketsSansIOProtocol, "data_received", noting_read)
    monkeypatch.setattr(FastProtocol, "_take_apart", noting_take_apart)
    await client.feed(frame(TEXT), frame(BINARY, b"x" * 125))
    assert (general, apart) == ([], [])
    medium = frame(TEXT, b"x" * 4096)
    await client.feed(frame(TEXT, b"1") * 2, medium, medium[:7], medium[7:])
    assert (general, apart) == ([], [14, 4104, 7, 4097])
    await client.feed(frame(TEXT, b"x" * 4097))
    assert general == [4105]
    await client.lose()
    sizes = [len(message) for message in client.messages]
    assert sizes == [0, 125, 1, 1, 4096, 4096, 4097]


async def test_reading_pauses_while_the_application_is_behind() -> None:
    client = await Client(ws_max_queue=5).open()
    client.receives.clear()
    await client.turns()
    await client.feed(frame(TEXT, b"taken"))  # by the receive under way
    one_read = b"".join(frame(TEXT, b"%d" % number) for number in range(4))
    await client.feed(one_read)
    assert client.wire.is_reading_
    await client.feed(frame(TEXT, b"the last"))
    assert not client.wire.is_reading_
    client.receives.set()
    await client.turns()
    assert client.wire.is_reading_
    assert client.wire.pauses == 1
    assert client.messages == ["taken", "0", "1", "2", "3", "the last"]
    await client.lose()


async def test_reading_goes_on_only_when_nothing_waits() -> None:
    client = Client(ws_max_queue=2)
    client.receives.clear()
    await client.open()
    await client.receive()
    await client.feed(frame(TEXT, b"1"), frame(TEXT, b"2"))
    assert not client.wire.is_reading_
    await client.receive()
    assert not client.wire.is_reading_
    await client.receive()
    assert client.wire.is_reading_
    await client.lose()


async def test_a_large_message_pauses_reading_as_in_uvicorns_class() -> None:
    client = await Client().open()
    client.receives.clear()
    await client.feed(frame(TEXT, b"taken"))
    await client.turns()
    await client.feed(frame(TEXT, b"x" * 5000))
    assert not client.wire.is_reading_
    client.receives.set()
    await client.turns()
    assert client.wire.is_reading_
    await client.lose()


async def test_a_limit_below_that_of_the_short_path() -> None:
    client = await Client(ws_max_size=100).open()
    await client.feed(frame(TEXT, b"x" * 100), frame(TEXT, b"x" * 101))
    assert [(first, payload[:2]) for first, payload in client.frames] == [
        (FIN | CLOSE, b"\x03\xf1")
    ]
    await client.lose()
    assert client.messages == ["x" * 100]


async def test_a_limit_below_that_of_small_messages() -> None:
    client = await Client(ws_max_size=1000).open()
    await client.feed(frame(TEXT, b"x" * 1000), frame(TEXT, b"x" * 1001))
    [(first, payload)] = client.frames
    assert (first, payload[:2]) == (FIN | CLOSE, b"\x03\xf1")
    await client.lose()
    assert client.messages == ["x" * 1000]


async def test_a_cancelled_receive_loses_no_event() -> None:
    client = await idle()
    for before_or_after in ("cancelled before", "cancelled after"):
        receiving = asyncio.create_task(client.receive())
        await client.turns()
        if before_or_after == "cancelled before":
            receiving.cancel()
        await client.feed(frame(TEXT, b"1"))
        receiving.cancel()  # it has the event already
        await client.feed(frame(TEXT, b"2"))
        await asyncio.wait([receiving])
        assert receiving.cancelled()
        assert [(await client.receive())["text"] for _ in range(2)] == ["1", "2"]
    await client.lose()


async def test_a_cancelled_receive_leaves_its_event_to_another_one() -> None:
    client = await idle()
    first = asyncio.create_task(client.receive())
    await client.turns()
    await client.feed(frame(TEXT, b"x"))
    first.cancel()
    second = asyncio.create_task(client.receive())
    assert (await second)["text"] == "x"
    await client.lose()


async def test_several_may_receive() -> None:
    client = await idle()
    receiving = [asyncio.create_task(client.receive()) for _ in range(4)]
    await client.turns()
    receiving[1].cancel()
    receiving[0].cancel()
    for number in range(2):
        await client.feed(frame(TEXT, b"%d" % number))
        await client.turns()
    assert [each.cancelled() for each in receiving] == [True, True, False, False]
    assert {(await each)["text"] for each in receiving[2:]} == {"0", "1"}
    await client.lose()


async def test_a_receive_that_was_cancelled_in_its_last_moment_gives_to_who_waits() -> None:
    client = await idle()
    first = asyncio.create_task(client.receive())
    await client.turns()
    await client.feed(frame(TEXT, b"x"))  # first has it, and has not run yet
    second = asyncio.create_task(client.receive())
    second_waits = asyncio.get_running_loop().create_future()
    # After the second has begun, before the first is told.
    asyncio.get_running_loop().call_soon(second_waits.set_result, None)
    first.cancel()
    await second_waits
    assert (await second)["text"] == "x"
    await client.lose()


async def idle() -> Client:
    """A client whose application receives nothing by itself."""
    client = Client()
    client.receives.clear()
    await client.open()
    assert (await client.receive())["type"] == "websocket.connect"
    return client


# Permessage-deflate


async def test_each_message_is_compressed_by_itself() -> None:
    client = await Client(deflate=True).open()
    assert b"server_no_context_takeover" in client.answer
    for _ in range(2):
        await client.send({"type": "websocket.send", "text": "x" * 300})
    one, other = client.frames
    assert one == other
    assert one[0] == FIN | RSV1 | TEXT
    assert inflated(one[1]) == b"x" * 300
    await client.lose()


async def test_a_small_message_is_not_compressed() -> None:
    client = await Client(deflate=True).open()
    await client.send({"type": "websocket.send", "text": "x" * 255})
    assert extension(client)["write_message"]("x" * 255)
    assert not extension(client)["write_message"]("x" * 256)
    assert client.frames == [(FIN | TEXT, b"x" * 255)] * 2
    await client.lose()


async def test_a_large_broadcast_is_compressed_once_for_all_with_the_same_window() -> None:
    clients = [await Client(deflate=True).open() for _ in range(2)]
    narrow = await Client(deflate=True).open(
        headers=[b"sec-websocket-extensions: permessage-deflate; server_max_window_bits=9"]
    )
    without = await Client(deflate=True).open(headers=[b"x-nothing: offered"])
    text = " ".join(str(number) for number in range(1000))
    frames = Frames([text, "small"])
    for client in (*clients, narrow, without):
        assert extension(client)["write"](frames)
    assert clients[0].wire.objects[-1] is clients[1].wire.objects[-1]
    assert without.wire.objects[-1] is frames.plain
    assert narrow.wire.objects[-1] is not clients[0].wire.objects[-1]
    for client, bits in ((clients[0], 12), (narrow, 9)):
        (first, payload), small = client.frames
        assert first == FIN | RSV1 | TEXT
        assert inflated(payload, bits) == text.encode()
        assert small == (FIN | TEXT, b"small")
    for client in (*clients, narrow, without):
        await client.lose()


async def test_what_does_not_shrink_is_not_compressed() -> None:
    client = await Client(deflate=True).open()
    noise = bytes(zlib.crc32(bytes([n % 256, n // 256])) % 256 for n in range(400))
    assert extension(client)["write"](Frames([noise]))
    assert client.frames == [(FIN | BINARY, noise)]
    await client.lose()


# The rest


async def test_a_ping_between_two_messages_of_one_read_is_answered() -> None:
    client = await Client().open()
    await client.feed(frame(TEXT, b"1") + frame(PING, b"?") + frame(TEXT, b"2"))
    await client.turns()
    assert client.messages == ["1", "2"]
    assert client.frames == [(0x8A, b"?")]
    await client.lose()


async def test_a_protocol_ping_that_is_not_answered_ends_it() -> None:
    client = await Client(ws_ping_interval=0.3, ws_ping_timeout=0.3).open()
    offered = extension(client)  # until the application has ended
    await until(lambda: client.wire.closing)
    assert not offered["write_message"]("x")
    ping, close = client.frames
    assert ping[0] == 0x89
    assert close[0] == FIN | CLOSE
    await client.lose()


def test_where_it_cannot_be_imported_uvicorn_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ws_protocol("auto") == "django_ws.server.protocol:FastProtocol"
    monkeypatch.setitem(sys.modules, "django_ws.server.protocol.protocol", None)
    assert ws_protocol("auto") == "auto"
    assert ws_protocol("wsproto") == "wsproto"
