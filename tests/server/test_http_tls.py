"""The same over TLS: what clients may do before their request is there."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from django_ws.server.limits import Limits
from tests.asgi_peer import until
from tests.server.serving import (
    HTTPS,
    LOOPS,
    Client,
    handshake,
    request,
    run,
    serving,
)
from tests.server.test_http_bounds import echo
from tests.server.wire import TEXT, frame

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
