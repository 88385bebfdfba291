"""What a connection that never becomes a WebSocket leaves behind: no reference cycle."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from django_ws.server.http.limits import Limits
from tests.support.asgi_peer import until
from tests.support.leftovers import left_by
from tests.support.serving import HTTPS, LOOPS, SECONDS, handshake, request, run, serving

LIMITS = Limits(max_header_size=4000, header_timeout=0.2)
VISITS = {
    "silent": b"",
    "half a head": b"GET /",
    "no HTTP": b"\x00\x01\r\n\r\n",
    "too large": request(b"/", b"a: " + b"x" * 10_000),
    "a page": request(b"/", b"Connection: close"),
    "another version": handshake().replace(b"Version: 13", b"Version: 99"),
    "answered with 404": handshake(),
}


async def application(scope: Any, receive: Any, send: Any) -> None:
    kind = "http" if scope["type"] == "http" else "websocket.http"
    headers = [(b"content-length", b"0")]
    await send({"type": f"{kind}.response.start", "status": 404, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": b""})


@pytest.mark.parametrize("http", HTTPS)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("visit", list(VISITS))
def test_nothing_waits_for_the_garbage_collector(loop: str, http: str, visit: str) -> None:
    async def main() -> None:
        async with serving(application, http, limits=LIMITS) as server:

            async def once() -> None:
                with socket.create_connection(("127.0.0.1", server.port), SECONDS) as client:  # type: ignore[attr-defined]
                    client.setblocking(False)
                    running = asyncio.get_running_loop()
                    await running.sock_sendall(client, VISITS[visit])
                    async with asyncio.timeout(SECONDS):
                        while await running.sock_recv(client, 65536):
                            pass
                await until(
                    lambda: not server.server_state.connections and not server.server_state.tasks
                )
                # Transports are let go of some turns later, and so are the sockets of the test.
                for _ in range(10):
                    await asyncio.sleep(0.001)

            assert await left_by(once) == {}

    run(loop, main())
