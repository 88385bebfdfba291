"""The end of the server, whatever its connections are in the middle of."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from contextlib import ExitStack
from typing import Any

import pytest
import uvicorn

from django_ws.server.base import BaseServer
from tests.integration.server.test_http_waiting import reading
from tests.support.asgi_peer import until
from tests.support.running import SECONDS, Runws
from tests.support.serving import HTTPS, LOOPS, Client, handshake, request, run, serving

SITE = ("-m", "django_ws.server", "tests.integration.server.end_site:application")
POST = request(b"/", b"Content-Length: 5", method=b"POST")
# What a client may be in the middle of.
CLIENTS = {
    "nothing": b"",
    "half a request": request()[:20],
    "a request that is too large": request(b"/", b"Cookie: " + b"x" * 70_000),
    "a socket": handshake(b"/socket"),
    "a socket with a large cookie": handshake(b"/socket", b"Cookie: " + b"x" * 60_000),
    "a socket with a cookie that is too large": handshake(b"/", b"Cookie: " + b"x" * 70_000),
    "a socket with many headers": handshake(b"/", *[b"a: b"] * 200),
    "a socket with a long request line": handshake(b"/?" + b"x" * 10_000),
    "a socket with a body": handshake(b"/", b"Content-Length: 5") + b"hello",
    "a socket with chunks": handshake(b"/", b"Transfer-Encoding: chunked"),
    "a socket that is no GET": handshake(method=b"POST"),
    "nonsense": b"nonsense\r\n\r\n",
    "a socket with nonsense behind it": handshake(b"/socket") + b"\xff" * 20,
    "a socket behind a page": request() + handshake(b"/socket"),
    "a page behind a page": request() + request(),
}


@pytest.mark.parametrize("http", HTTPS)
@pytest.mark.parametrize("ws", ["fast", "websockets-sansio", "wsproto"])
def test_no_connection_keeps_others_from_their_end(http: str, ws: str) -> None:
    with (
        Runws("--http", http, "--ws", ws, command=SITE) as server,
        ExitStack() as stack,
    ):
        page, *clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), SECONDS))
            for _ in range(len(CLIENTS) + 1)
        ]
        page.sendall(POST)
        for client, data in zip(clients, CLIENTS.values(), strict=True):
            client.sendall(data)
        server.signal(signal.SIGTERM)
        server.wait_for("Waiting for connections to close")
        page.sendall(b"hello")
        answer = b""
        while not answer.endswith(b"\r\n\r\nhello"):
            answer += (data := page.recv(1000))
            assert data
        server.wait_for("lifespan.shutdown")
        assert server.process.wait(SECONDS) == 0
        server.wait_for("has ended (exit code 0)")


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("ws", ["fast", "websockets-sansio"])
def test_a_client_that_does_not_read_does_not_hold_up_the_end(loop: str, ws: str) -> None:
    with (
        Runws("--loop", loop, "--ws", ws, "--graceful-timeout", "120", command=SITE) as server,
        socket.create_connection(("127.0.0.1", server.port), SECONDS) as client,
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(handshake(b"/floods"))
        server.wait_for("left a client that does not read")
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0
        assert time.monotonic() - began < 20
        server.wait_for("aborted: its client has read nothing for", "lifespan.shutdown")


def test_half_a_body_does_not_hold_up_the_end() -> None:
    with (
        Runws("--graceful-timeout", "120", command=SITE) as server,
        socket.create_connection(("127.0.0.1", server.port), SECONDS) as client,
    ):
        client.sendall(request() + POST + b"hel")
        answers = b""
        while b"200 OK" not in answers:  # the first is answered, the second is read
            answers += client.recv(1000)
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0
        assert time.monotonic() - began < 20
        server.wait_for("POST / refused with 408: The request did not come in time.")


class Broken:
    """A connection that cannot be closed."""

    client = None

    def __init__(self, connections: set[Any], is_stubborn: bool = False) -> None:
        self.connections = connections
        self.transport: Any = self
        self.is_stubborn = is_stubborn
        connections.add(self)

    def shutdown(self) -> None:
        raise LookupError("a fault of the connection's own")

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        if not self.is_stubborn:
            self.connections.discard(self)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


def test_what_a_connection_raises_is_logged_and_the_others_end_as_ever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with serving(reading) as server, Client(server) as page, Client(server) as idle:
            page.say(POST)
            await until(lambda: len(server.server_state.tasks) == 1)
            idle.say(b"GET")
            for _ in range(20):
                Broken(server.server_state.connections)
            ending = asyncio.create_task(server.shutdown())
            assert await idle.rest() == b""
            page.say(b"hello")
            assert await page.answer() == (200, b"hello")
            await ending

    run("uvloop", main())
    assert told(caplog) == ["A connection could not be closed, and is aborted (Broken, Broken)"]
    [record] = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert record.exc_info is not None


def test_uvicorns_server_is_ended_by_it() -> None:
    """Where it is not, ours need not look."""

    async def main() -> None:
        config = uvicorn.Config(reading, log_config=None, lifespan="off", port=0)
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        broken = Broken(server.server_state.connections)
        with pytest.raises(LookupError):
            await server.shutdown()
        broken.abort()

    asyncio.run(main())


def test_what_does_not_end_in_time_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    cancelled: list[str] = []

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(scope["path"])
            raise

    async def main() -> None:
        async with (
            serving(endless, timeout_graceful_shutdown=1) as server,
            Client(server) as client,
        ):
            client.say(request(b"/endless"))
            await until(lambda: server.server_state.tasks)
            await server.shutdown()
            await until(lambda: cancelled == ["/endless"])

    run("asyncio", main())
    assert "Not ended in time, and cancelled: 1 of the server's tasks" in told(caplog)


def test_at_once_nothing_is_waited_for() -> None:
    async def main() -> None:
        async with serving(reading) as server:
            connections: set[Any] = server.server_state.connections
            stubborn = Broken(connections, is_stubborn=True)
            server.force_exit = True
            await server.shutdown()
            assert stubborn in connections

    run("asyncio", main())


def test_the_port_that_a_server_chooses_itself() -> None:
    """Where it is given no sockets: as with uvicorn."""

    async def main() -> None:
        config = uvicorn.Config(reading, log_config=None, lifespan="off", port=0)
        config.load()
        server = BaseServer(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        [listening] = server.servers[0].sockets
        with socket.create_connection(listening.getsockname(), SECONDS):
            pass
        await server.shutdown()

    asyncio.run(main())
