"""The lines of the log about each WebSocket: they come in pairs."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from django_ws.server.config import ws_protocol
from tests.support.asgi_peer import until
from tests.support.serving import Client, handshake, run, serving
from tests.support.wire import CLOSE, TEXT, frame


async def site(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    if scope["path"] == "/refused":
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        if event["text"] == "close":
            await send({"type": "websocket.close", "code": 4001})


@pytest.mark.parametrize("ws", ["fast", "websockets-sansio"])
def test_each_accepted_one_is_closed_with_a_code(ws: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "uvicorn.error")

    async def visit(server: Any, data: bytes, *frames: bytes) -> None:
        async with Client(server) as client:
            client.say(data)
            await client.answer()
            for each in frames:
                client.say(each)
                await client.exactly(4)  # a close frame
        await until(lambda: not server.server_state.connections)

    async def main() -> None:
        async with serving(site, ws=ws_protocol(ws)) as server:
            await visit(server, handshake(b"/left"), frame(CLOSE, b"\x10\xe1"))
            await visit(server, handshake(b"/closed"), frame(TEXT, b"close"))
            await visit(server, handshake(b"/refused"))
            await visit(server, handshake(b"/invalid").replace(b"Version: 13", b"Version: 99"))
            await visit(server, handshake(b"/gone"))

    run("uvloop", main())
    lines = [line.partition(' - "WebSocket ')[2] for line in caplog.messages]
    assert [line for line in lines if line] == [
        '/left" [accepted]',
        '/left" [closed with 4321]',
        '/closed" [accepted]',
        '/closed" [closed with 4001]',
        '/refused" 403',
        '/gone" [accepted]',
        '/gone" [closed with 1006]',
    ]
