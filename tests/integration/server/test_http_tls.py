"""The same over TLS: what clients may do before their request is there."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from django_ws.server.http.limits import Limits
from django_ws.server.protocol import stalled
from tests.integration.server.test_http_bounds import echo
from tests.support.asgi_peer import until
from tests.support.serving import (
    HTTPS,
    LOOPS,
    SECONDS,
    Client,
    handshake,
    request,
    run,
    serving,
)
from tests.support.wire import CLOSE, PING, TEXT, frame

both = pytest.mark.parametrize(("loop", "http"), [(loop, http) for loop in LOOPS for http in HTTPS])
SOON = Limits(header_timeout=0.5)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout key -out certificate"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command.split(), *subject], cwd=folder, check=True, capture_output=True)
    return {"ssl_certfile": str(folder / "certificate"), "ssl_keyfile": str(folder / "key")}


class Secure(Client):
    def __init__(self, server: Any, tls: dict[str, Any]) -> None:
        super().__init__(server)
        self._context = ssl.create_default_context(cafile=Path(tls["ssl_certfile"]))

    async def __aenter__(self) -> Client:
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self._port, ssl=self._context
        )
        return self


@asynccontextmanager
async def silent(server: Any, tls: dict[str, Any], data: bytes) -> AsyncIterator[None]:
    """A client that sends this, and then neither reads nor ends its TLS."""
    context = ssl.create_default_context(cafile=Path(tls["ssl_certfile"]))

    def say() -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", server.port), SECONDS)
        secure = context.wrap_socket(plain, server_hostname="127.0.0.1")
        secure.sendall(data)
        return secure

    with await asyncio.to_thread(say):
        yield


@both
def test_pages_and_sockets_are_served(loop: str, http: str, tls: dict[str, Any]) -> None:
    async def main() -> None:
        async with serving(echo, http, **tls) as server, Secure(server, tls) as client:
            client.say(request())
            assert (await client.answer())[0] == 200
            client.say(handshake(b"/", b"Cookie: " + b"x" * 60_000), frame(TEXT, b"hello"))
            assert (await client.answer())[0] == 101
            await client.exactly(2 + 5)
            assert await client.exactly(7) == b"\x81\x05hello"

    run(loop, main())


@both
@pytest.mark.parametrize(
    "data",
    [
        handshake(b"/refused"),
        handshake(b"/") + frame(CLOSE, b"\x03\xe8"),
        handshake(b"/") + frame(TEXT, b"\xff"),
        handshake(b"/") + frame(PING) * 1100,
        request(b"/", b"a: " + b"x" * 10_000),
    ],
    ids=["refused", "closed", "no UTF-8", "pings", "too large"],
)
def test_a_client_that_stays_after_its_end_does_no_harm(
    loop: str, http: str, data: bytes, tls: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its transport is closed by whoever ends it, and once more by the end of the application, or
    of the server. It sends one record of TLS: what comes behind the end would abort it.
    """
    monkeypatch.setattr(stalled, "ROUND_SECONDS", 0.0)
    monkeypatch.setattr(stalled, "CLOSED_AT_THE_END_SECONDS", 0.0)

    async def site(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/refused":
            await receive()
            await send({"type": "websocket.close"})
        else:
            await echo(scope, receive, send)

    async def main() -> None:
        limits = Limits(max_header_size=4000)
        async with serving(site, http, limits=limits, **tls) as server, silent(server, tls, data):
            state = server.server_state
            await until(lambda: any(each.transport.is_closing() for each in state.connections))
            await until(lambda: not state.tasks)
            [connection] = state.connections
            connection.shutdown()
            await server.on_tick(0)  # which begins a round
            await server.on_tick(0)
            assert connection in state.connections
            async with Secure(server, tls) as other:
                other.say(request())
                assert (await other.answer())[0] == 200
            async with asyncio.timeout(15):  # asyncio itself would end it after 30
                await server.shutdown()
            assert not state.connections

    run(loop, main())


REFUSALS: dict[bytes, list[dict[str, Any]]] = {
    b"/closed": [{"type": "websocket.close"}],
    b"/answered": [
        {"type": "websocket.http.response.start", "status": 404, "headers": []},
        {"type": "websocket.http.response.body", "body": b"no"},
    ],
    b"/in-parts": [
        {"type": "websocket.http.response.start", "status": 404, "headers": []},
        {"type": "websocket.http.response.body", "body": b"n", "more_body": True},
        {"type": "websocket.http.response.body", "body": b"o"},
    ],
}


@both
@pytest.mark.parametrize("path", list(REFUSALS))
def test_a_refused_handshake_is_no_mistake_of_the_application(
    loop: str, http: str, path: bytes, tls: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The end of TLS is waited for, while the application returns."""

    async def site(scope: Any, receive: Any, send: Any) -> None:
        for event in REFUSALS[scope["path"].encode()]:
            await send(event)

    async def main() -> None:
        async with serving(site, http, **tls) as server:
            async with silent(server, tls, handshake(path)):
                state = server.server_state
                await until(lambda: any(each.transport.is_closing() for each in state.connections))
                await until(lambda: not state.tasks)
                [connection] = state.connections  # its client has not answered the end
                connection.transport.abort()
            await until(lambda: not state.connections)

    run(loop, main())
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


@both
@pytest.mark.parametrize(
    ("data", "status"), [(b"GET /", 408), (request(b"/", b"a: " + b"x" * 70_000), 431)]
)
def test_refusals_are_answered(
    loop: str, http: str, tls: dict[str, Any], data: bytes, status: int
) -> None:
    async def main() -> None:
        async with serving(echo, http, limits=SOON, **tls) as server:
            async with Secure(server, tls) as client:
                client.say(data)
                assert (await client.answer())[0] == status
                assert await client.rest() == b""
            await until(lambda: not server.server_state.connections)

    run(loop, main())
