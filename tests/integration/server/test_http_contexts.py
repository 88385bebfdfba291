"""Context variables that one visitor's request has set are not there for the next one's."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tests.integration.server.test_http_waiting import answer
from tests.support.serving import HTTPS, LOOPS, Client, handshake, request, run, serving
from tests.support.wire import TEXT, frame

both = pytest.mark.parametrize(("loop", "http"), [(loop, http) for loop in LOOPS for http in HTTPS])

visitor: ContextVar[str] = ContextVar("visitor", default="nobody")
site: ContextVar[str] = ContextVar("site", default="unknown")
SIZE = 300_000  # of a body: reading is paused, and goes on in the visitor's task


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Says who was here before, and that it is here now."""
    before = f"{visitor.get()} on {site.get()}".encode()
    visitor.set(scope["path"])
    if scope["type"] == "http":
        more = True
        while more:
            more = (await receive())["more_body"]
            await asyncio.sleep(0)
        await answer(send, before)
        return
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "bytes": before})
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})


NOBODY = b"nobody on example.com"


def post(target: bytes) -> bytes:
    return request(target, b"Content-Length: %d" % SIZE, method=b"POST") + b"x" * SIZE


@both
@pytest.mark.parametrize("together", [False, True])
def test_each_request_of_a_connection_begins_in_a_context_of_its_own(
    loop: str, http: str, together: bool
) -> None:
    async def main() -> None:
        site.set("example.com")  # that of the server is there
        async with serving(application, http) as server, Client(server) as client:
            requests = [request(b"/a"), post(b"/b"), request(b"/c"), post(b"/d"), request(b"/e")]
            if together:
                client.say(*requests)
            for each in requests:
                if not together:
                    client.say(each)
                assert await client.answer() == (200, NOBODY)

    run(loop, main())


@both
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("page", [request(b"/a"), post(b"/a")], ids=["get", "post"])
def test_a_socket_behind_a_page_begins_in_a_context_of_its_own(
    loop: str, http: str, together: bool, page: bytes
) -> None:
    async def main() -> None:
        site.set("example.com")
        async with serving(application, http) as server, Client(server) as client:
            client.say(page, *([handshake(b"/b")] if together else []))
            assert await client.answer() == (200, NOBODY)
            if not together:
                client.say(handshake(b"/b"))
            assert (await client.answer())[0] == 101
            assert await client.exactly(2 + len(NOBODY)) == b"\x82\x15" + NOBODY
            client.say(frame(TEXT, b"hello"))
            assert await client.exactly(7) == b"\x81\x05hello"

    run(loop, main())


@pytest.mark.parametrize(
    ("theirs", "loop"),
    [(HttpToolsProtocol, "asyncio"), (H11Protocol, "asyncio"), (H11Protocol, "uvloop")],
)
def test_uvicorn_still_begins_in_that_of_an_earlier_visitor(
    theirs: Any, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default. Where all of this fails, ours need not do it."""
    monkeypatch.setattr("tests.support.serving.http_protocol", lambda name: theirs)

    async def main() -> None:
        async with serving(application) as server, Client(server) as client:
            client.say(post(b"/a"), request(b"/b"))
            assert (await client.answer())[1].startswith(b"nobody")
            assert (await client.answer())[1].startswith(b"/a")

    run(loop, main())
