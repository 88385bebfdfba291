"""Too many messages, too large ones, and small ones that become large, on a real server."""

from __future__ import annotations

import json
import select
import time
import zlib
from functools import cache

import pytest

from tests.support.fuzzer import SITE, asked, numbers
from tests.support.raw import BINARY, CLOSE, CONTINUATION, TEXT, RawClient, frame
from tests.support.servers import KINDS, Kind, Server

MIB = 1024 * 1024
SECONDS = 60.0  # the bound of a wait: only a broken test comes near it
DEFLATE = (b"Sec-WebSocket-Extensions", b"permessage-deflate; client_max_window_bits=12")
UVICORNS = [kind for name, kind in KINDS.items() if name.startswith("uvicorn")]


def opened(server: Server, path: str, *headers: tuple[bytes, bytes]) -> RawClient:
    client = RawClient(server.port, f"/{path}/".encode(), headers)
    assert client.status() == 101
    return client


def closed_with(client: RawClient) -> int:
    """The code; 1006 where the server has reset the connection before it could be read."""
    try:
        return client.receive_close()
    except (ConnectionError, EOFError):
        return 1006


@cache
def bomb(size: int) -> bytes:
    """One frame that becomes so many zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    data = packer.compress(bytes(size)) + packer.flush(zlib.Z_SYNC_FLUSH)
    whole = bytearray(frame(BINARY, data[:-4]))
    whole[0] |= 0x40
    return bytes(whole)


@pytest.mark.parametrize("kind", UVICORNS, ids=lambda kind: kind.name)
def test_what_becomes_too_large_is_closed_with_1009_and_takes_little_memory(
    kind: Kind, request: pytest.FixtureRequest
) -> None:
    server = Server(kind, DJANGO_SETTINGS_MODULE=SITE)
    request.addfinalizer(server.stop)
    allowed, ten, hundred = bomb(MIB - 1), bomb(10 * MIB), bomb(100 * MIB)
    assert len(ten) < 11_000
    assert len(hundred) < 110_000
    with opened(server, "bytes", DEFLATE) as client:
        client.send(allowed)
        assert client.receive_frame()[0] == BINARY
        client.send(ten)
        assert client.receive_close() == 1009
    before = numbers(server)["memory"]
    for large in (ten, hundred):
        with opened(server, "bytes", DEFLATE) as client:
            client.send(large)
            assert closed_with(client) in (1009, 1006)
    # wsproto unpacks what it has read before it looks at the size: some 64 KiB, a thousandfold.
    assert numbers(server)["memory"] - before < (256 if "wsproto" in kind.name else 48)
    assert asked(server, "echo", "1") == "1"


def test_a_flood_is_closed_with_4429_and_others_are_served(attacked: Server) -> None:
    with opened(attacked, "limited") as client:
        client.send(frame(TEXT, b"1") * 20_000)
        assert asked(attacked, "echo", "1") == "1"
        answers = 0
        while (answer := client.receive_frame())[0] != CLOSE:
            answers += 1
    assert int.from_bytes(answer[1][:2], "big") == 4429
    # The burst, and what time gave meanwhile: twenty more for each second that it took.
    assert 20 <= answers < 1000


def test_pieces_of_a_message_that_never_ends_are_no_messages(attacked: Server) -> None:
    with opened(attacked, "limited") as client:
        client.send_frame(TEXT, b"[", final=False)
        end = time.monotonic() + SECONDS
        while not select.select([client], [], [], 0.05)[0]:
            client.send_frame(CONTINUATION, b"1,", final=False)
            assert time.monotonic() < end
        assert client.receive_close() == 4408  # its idle_timeout is a second


@pytest.mark.parametrize(
    ("path", "message", "code"),
    [
        ("limited", b'"' + b"x" * 2000 + b'"', 1009),
        ("echo", b"[" * MIB, 1007),
        ("echo", b'"' + b"x" * MIB + b'"', 1009),
        ("echo", b"9" * 100_000, 1007),
        ("first", b'{"token": "' + b"x" * MIB + b'"}', 4401),
        ("topics", json.dumps("x" * 513).encode(), 4403),
        ("topics", json.dumps("").encode(), 4403),
        ("topics", json.dumps([f"room:{number}" for number in range(11)]).encode(), 4403),
        ("topics", json.dumps("django_ws.user:1").encode(), 4403),
        ("topics", json.dumps("\0control").encode(), 4403),
        ("topics", json.dumps("\0session:x").encode(), 4403),
        ("topics", b"5", 4403),
    ],
)
def test_what_is_too_large_or_not_allowed_closes(
    attacked: Server, path: str, message: bytes, code: int
) -> None:
    with opened(attacked, path) as client:
        client.send_frame(TEXT, message)
        assert client.receive_close() == code
    assert asked(attacked, "echo", "1") == "1"
