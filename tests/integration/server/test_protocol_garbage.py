"""What a connection of the fast protocol leaves behind on a real server: no reference cycle."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvicorn
import uvloop

from django_ws.server.protocol.protocol import FastProtocol
from tests.integration.server.test_protocol_server import HANDSHAKE, SECONDS
from tests.support.asgi_peer import until
from tests.support.leftovers import left_by
from tests.support.wire import BINARY, CLOSE, PING, TEXT, frame

MESSAGE = frame(TEXT, b"1")


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Echoes; refuses, closes or raises where it is told to."""
    event = await receive()
    if scope["path"] == "/refused":
        await send({"type": "websocket.close", "code": 1000})
        return
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        if event.get("text") == "close":
            await send({"type": "websocket.close", "code": 4001, "reason": "bye"})
        elif event.get("text") == "raise":
            raise LookupError("a mistake")
        else:
            await send({**event, "type": "websocket.send"})


class Client:
    """A plain socket, so that the client leaves nothing itself."""

    def __init__(self, plain: socket.socket) -> None:
        self.socket = plain
        self.loop = asyncio.get_running_loop()

    async def say(self, *frames: bytes) -> None:
        await self.loop.sock_sendall(self.socket, b"".join(frames))

    async def hear(self) -> bytes:
        async with asyncio.timeout(SECONDS):
            return await self.loop.sock_recv(self.socket, 65536)

    async def hear_all(self) -> None:
        while await self.hear():
            pass


async def leaves(client: Client) -> None:
    await client.say(MESSAGE, frame(PING), frame(BINARY, bytes(70_000)))
    await client.hear()
    await client.say(frame(CLOSE, b"\x03\xe8"))
    await client.hear_all()


async def vanishes(client: Client) -> None:
    await client.say(MESSAGE)
    await client.hear()


async def vanishes_within_a_frame(client: Client) -> None:
    await client.say(MESSAGE + frame(BINARY, bytes(70_000))[:1000])
    await client.hear()


async def is_closed(client: Client) -> None:
    await client.say(frame(TEXT, b"close"))
    await client.hear()
    await client.say(frame(CLOSE, b"\x0f\xa1"))
    await client.hear_all()


async def is_failed(client: Client) -> None:
    await client.say(frame(TEXT, b"raise"))
    await client.hear_all()


async def breaks_the_protocol(client: Client) -> None:
    await client.say(b"\xff" * 20)
    await client.hear_all()


async def is_refused(client: Client) -> None:
    await client.hear_all()


VISITS = {
    visit.__name__: visit
    for visit in (
        leaves,
        vanishes,
        vanishes_within_a_frame,
        is_closed,
        is_failed,
        breaks_the_protocol,
        is_refused,
    )
}
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


async def left_behind(
    visit: Callable[[Client], Coroutine[Any, Any, None]], **options: Any
) -> dict[str, int]:
    config = uvicorn.Config(
        application, interface="asgi3", log_config=None, lifespan="off", **options
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    path = b"/refused" if visit is is_refused else b"/"

    async def once(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), SECONDS) as plain:
            plain.setblocking(False)
            client = Client(plain)
            await client.say(HANDSHAKE.replace(b"GET / ", b"GET %b " % path))
            if visit is not is_refused:
                assert (await client.hear()).startswith(b"HTTP/1.1 101 ")
            await visit(client)
        await until(lambda: not server.server_state.connections and not server.server_state.tasks)
        # Transports are let go of some turns later, and so are the sockets of the test.
        for _ in range(10):
            await asyncio.sleep(0.001)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        await server.startup([listening])
        port = listening.getsockname()[1]
        try:
            return await left_by(lambda: once(port))
        finally:
            await server.shutdown([listening])


def test_uvicorns_own_class_still_leaves_some() -> None:
    """When this fails, ``django_ws.server.protocol.leftovers`` may have become unnecessary."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        found = runner.run(left_behind(leaves, ws="websockets-sansio", http="httptools"))
    assert "websockets.server.ServerProtocol" in found
    assert "uvicorn.protocols.http.httptools_impl.HttpToolsProtocol" in found


@pytest.mark.parametrize("deflate", [False, True], ids=["plain", "deflate"])
@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("visit", list(VISITS))
def test_nothing_waits_for_the_garbage_collector(
    loop: str, http: str, visit: str, deflate: bool
) -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        found = runner.run(
            left_behind(VISITS[visit], ws=FastProtocol, http=http, ws_per_message_deflate=deflate)
        )
    assert found == {}
