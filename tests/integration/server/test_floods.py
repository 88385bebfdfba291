"""One client that sends as much as it can: `runws` serves others in between, whatever it sends."""

from __future__ import annotations

import socket
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.support.running import SECONDS, Runws
from tests.support.serving import handshake, request
from tests.support.wire import BINARY, CONTINUATION, FIN, PING, PONG, RSV1, TEXT, frame

COMMAND = ("-m", "django_ws.server", "tests.integration.server.watched_site:application")
SIZE = 1_000_000  # bytes of a flood: much more than one read
# Of the event loop's own processor time, for one turn. It takes 1 to 20 ms; three times as much
# where its lines are counted, for the coverage.
MOST_SECONDS = 0.2

OPEN = handshake(b"/")
POST = request(b"/", b"Transfer-Encoding: chunked", method=b"POST")


def times(data: bytes) -> bytes:
    return data * (SIZE // len(data))


def bomb() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    data = packer.compress(bytes(1_000_000)) + packer.flush(zlib.Z_SYNC_FLUSH)
    return frame(BINARY, data[:-4], flags=FIN | RSV1)


FLOODS = {
    "pings": OPEN + times(frame(PING)),
    "pongs": OPEN + times(frame(PONG)),
    "small messages": OPEN + times(frame(TEXT, b"x")),
    "medium messages": OPEN + times(frame(TEXT, b"x" * 5000)),
    "empty fragments": OPEN + frame(TEXT, b"", flags=0) + times(frame(CONTINUATION, flags=0)),
    "small fragments": OPEN
    + frame(TEXT, b"x" * 65, flags=0)
    + times(frame(CONTINUATION, b"x" * 65, flags=0, mask=bytes(4))),
    "messages of fragments": OPEN
    + times(frame(TEXT, b"", flags=0) + frame(CONTINUATION, flags=0) * 500 + frame(CONTINUATION)),
    "what follows a close": handshake(b"/closes") + frame(TEXT, b"x") + times(frame(PING)),
    "bombs": handshake(b"/", b"Sec-WebSocket-Extensions: permessage-deflate") + bomb() * 200,
    "requests": times(request()),
    "tiny chunks": POST + b"1\r\nx\r\n" * 20_000,  # more would be read long after the client's end
    "headers": times(b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 990 + b"\r\n"),
    "many headers": b"GET / HTTP/1.1\r\n" + times(b"a:\r\n"),
    "a long header": b"GET / HTTP/1.1\r\na: " + times(b"x"),
    "a long line": b"GET /" + times(b"x"),
}


@contextmanager
def flooding(port: int, data: bytes, reads: bool) -> Iterator[threading.Thread]:
    with socket.create_connection(("127.0.0.1", port), SECONDS) as client:

        def send() -> None:
            with suppress(OSError):
                client.sendall(data)

        def read() -> None:
            with suppress(OSError):
                while client.recv(1 << 16):
                    pass

        sending = threading.Thread(target=send, daemon=True)
        sending.start()
        if reads:
            threading.Thread(target=read, daemon=True).start()
        yield sending
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


def worst(server: Runws) -> float:
    """Seconds of the longest turn since this was asked last."""
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as client:
        client.sendall(request(b"/worst", b"Connection: close"))
        answer = b""
        while data := client.recv(1000):
            answer += data
    return int(answer.rpartition(b"\r\n")[2]) / 1e6


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=["httptools", "h11"])
def server(loop: str, request: pytest.FixtureRequest) -> Iterator[Runws]:
    options = ("--loop", loop, "--http", request.param, "--compression", "--no-access-log")
    with Runws(*options, command=COMMAND) as started:
        yield started


@pytest.mark.heavy
@pytest.mark.parametrize("reads", [True, False], ids=["reading", "not reading"])
@pytest.mark.parametrize("name", FLOODS)
def test_no_turn_of_the_event_loop_takes_long(server: Runws, name: str, reads: bool) -> None:
    worst(server)
    with flooding(server.port, FLOODS[name], reads) as sending:
        end = time.monotonic() + 2.0
        found = 0.0
        while sending.is_alive() and time.monotonic() < end:
            sending.join(0.1)
            found = max(found, worst(server))
        found = max(found, worst(server))
    assert found < MOST_SECONDS, f"{name}: {found * 1000:.0f} ms"
