"""Connections whose client reads nothing are aborted, those of slow clients are not."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import pytest

from django_ws.server.protocol import stalled
from django_ws.server.protocol.stalled import Stalled
from tests.support.asgi_peer import until
from tests.support.serving import HTTPS, LOOPS, SECONDS, handshake, request, run, serving

SIZE = 20_000_000  # more than the kernel takes


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(20):
            await send({
                "type": "http.response.body",
                "body": bytes(SIZE // 20),
                "more_body": True,
            })  # fmt: skip
        await send({"type": "http.response.body", "body": b""})
        return
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "bytes": bytes(SIZE)})
    if scope["path"] == "/closes":
        return  # which closes the transport
    while (await receive())["type"] == "websocket.receive":
        pass


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLOSED_SECONDS", "PAGE_SECONDS"):
        monkeypatch.setattr(stalled, name, 0.5)
    monkeypatch.setattr(stalled, "ROUND_SECONDS", 0.05)


def deaf(server: Any) -> socket.socket:
    """A client that takes next to nothing without reading."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    client.settimeout(SECONDS)
    client.connect(("127.0.0.1", server.port))
    return client


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("http", HTTPS)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("data", [request(), handshake(b"/closes")], ids=["page", "closed socket"])
def test_a_client_that_reads_nothing_is_left(
    loop: str, http: str, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "uvicorn.error")

    async def main() -> None:
        async with serving(application, http) as server:
            with deaf(server) as client:
                client.sendall(data)
                await until(lambda: server.server_state.connections)
                await until(lambda: not server.server_state.connections)
                await until(lambda: not server.server_state.tasks)

    run(loop, main())
    [line] = [each for each in caplog.messages if "aborted" in each]
    assert line.startswith("Connection of 127.0.0.1 aborted: its client has read nothing for 0.")


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("http", HTTPS)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("data", [request(), handshake(b"/closes")], ids=["page", "closed socket"])
def test_a_client_that_reads_slowly_gets_all(loop: str, http: str, data: bytes) -> None:
    async def main() -> None:
        async with serving(application, http) as server:
            with deaf(server) as client:
                client.sendall(data)
                client.setblocking(False)
                running, got = asyncio.get_running_loop(), 0
                for _ in range(20):  # what the kernel holds is not half of it
                    got += len(await running.sock_recv(client, 1 << 20))
                    await asyncio.sleep(0.1)
                while part := await running.sock_recv(client, 1 << 20):
                    got += len(part)
                    if got > SIZE and data == request():
                        break
                assert got > SIZE

    run(loop, main())


@pytest.mark.usefixtures("short")
def test_an_open_socket_is_not_its_affair() -> None:
    """What waits for that one is the library's: WS_SEND_BUFFER."""

    async def main() -> None:
        async with serving(application) as server:
            with deaf(server) as client:
                client.sendall(handshake())
                await asyncio.sleep(1.5)
                assert len(server.server_state.connections) == 1

    run("uvloop", main())


class Fake:
    """A connection, and its transport."""

    client = ("1.2.3.4", 5)

    def __init__(self) -> None:
        self.transport = self
        self.looks = 0
        self.size = 10
        self.is_aborted = False
        self.socket = socket.socket()
        self.socket.close()

    def is_closing(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        self.looks += 1
        return self.size

    def get_extra_info(self, name: str) -> socket.socket:
        return self.socket

    def abort(self) -> None:
        self.is_aborted = True


def test_they_are_looked_at_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stalled, "AT_ONCE", 2)
    fakes = [Fake() for _ in range(5)]
    looks = Stalled(fakes)
    looks.look(100.0)
    assert [fake.looks for fake in fakes] == [0, 0, 0, 0, 0]
    looks.look(100.1)
    assert [fake.looks for fake in fakes] == [1, 1, 0, 0, 0]
    for number in range(10):
        looks.look(100.2 + number / 10)
    assert [fake.looks for fake in fakes] == [1, 1, 1, 1, 1]
    looks.look(102.1)
    looks.look(102.2)
    assert [fake.looks for fake in fakes] == [2, 2, 1, 1, 1]


def test_any_progress_begins_the_time_again() -> None:
    fake = Fake()
    looks = Stalled([fake])
    for now in (0.0, 1.9, 3.8, 5.7):
        looks.look_at_the_end(now)
        fake.size -= 1
    assert not fake.is_aborted
    looks.look_at_the_end(5.8)
    looks.look_at_the_end(7.7)
    assert not fake.is_aborted
    looks.look_at_the_end(7.9)
    assert fake.is_aborted


class Broken(Fake):
    def get_write_buffer_size(self) -> int:
        raise LookupError("a fault")


def test_one_that_cannot_be_looked_at_is_aborted_and_the_others_are_looked_at(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fakes = [Fake(), Broken(), Broken(), Fake()]
    looks = Stalled(fakes)
    looks.look(100.0)
    looks.look(100.1)
    assert [fake.is_aborted for fake in fakes] == [False, True, True, False]
    assert [fake.looks for fake in fakes] == [1, 0, 0, 1]
    looks.look_at_the_end(100.2)
    assert [fake.looks for fake in fakes] == [2, 0, 0, 2]
    [line] = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert line.getMessage() == (
        "A connection could not be looked at, and is aborted (Broken, Broken)"
    )
    assert line.exc_info is not None


async def test_asyncio_waits_for_ever_itself() -> None:
    """With a transport that was closed. Where it does not, all this can go."""
    served: list[asyncio.Transport] = []

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            served.append(transport)
            transport.write(bytes(SIZE))
            transport.close()

    server = await asyncio.get_running_loop().create_server(Protocol, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()):
        await until(lambda: served)
        await asyncio.sleep(0.5)
        left = served[0].get_write_buffer_size()
        await asyncio.sleep(0.5)
        assert served[0].get_write_buffer_size() == left > 0
        served[0].abort()
    server.close()
