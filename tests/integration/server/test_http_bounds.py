"""What our HTTP protocols take of a request's head, and how they answer what they do not take."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from django_ws.server.http.limits import Limits
from tests.support.serving import HTTPS, LOOPS, Client, handshake, request, run, serving

pytestmark = [pytest.mark.parametrize("http", HTTPS), pytest.mark.parametrize("loop", LOOPS)]

KIB = 1024
LARGE = {
    "cookie": [b"Cookie: a=" + b"x" * 60 * KIB],
    "authorization": [b"Authorization: Bearer " + b"x" * 60 * KIB],
    "many headers": [b"X-Header-%d: value" % number for number in range(500)],
    "content-length of nothing": [b"Content-Length: 0"],
}
TOO_LARGE = {
    "cookie": [b"Cookie: a=" + b"x" * 64 * KIB],
    "many headers": [b"X-%d: y" % number for number in range(1000)],
    "all of them": [b"X-Header-%d: " % number + b"x" * 1000 for number in range(70)],
}


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """A page with the size of its headers; a socket that says the same, and echoes."""
    size = str(sum(len(name) + len(value) for name, value in scope["headers"])).encode()
    if scope["type"] == "http":
        await send({
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", str(len(size)).encode())],
        })  # fmt: skip
        await send({"type": "http.response.body", "body": size})
        return
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "bytes": size})
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})


@pytest.mark.parametrize("name", LARGE)
def test_large_heads_are_taken_for_pages_and_sockets(loop: str, http: str, name: str) -> None:
    async def main() -> None:
        async with serving(echo, http) as server, Client(server) as page, Client(server) as socket:
            page.say(request(b"/", *LARGE[name]))
            status, size = await page.answer()
            assert status == 200
            assert int(size) > sum(map(len, LARGE[name])) - 2 * len(LARGE[name])
            socket.say(handshake(b"/", *LARGE[name]))
            assert (await socket.answer())[0] == 101
            await socket.exactly(2)

    run(loop, main())


@pytest.mark.parametrize("make", [request, handshake])
def test_a_long_request_line_is_taken(loop: str, http: str, make: Any) -> None:
    async def main() -> None:
        async with serving(echo, http) as server, Client(server) as client:
            client.say(make(b"/?" + b"x" * 60 * KIB))
            assert (await client.answer())[0] in (101, 200)

    run(loop, main())


@pytest.mark.parametrize(
    "target",
    [b"http://site/a/?b", b"https://site:8000/a/?b", b"http://site", b"http://site?b"],
)
def test_a_handshake_may_name_the_host_in_its_request_line(
    loop: str, http: str, target: bytes
) -> None:
    """https://www.rfc-editor.org/rfc/rfc9112#section-3.2.2"""
    seen = []

    async def noted(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            seen.append((scope["path"], scope["raw_path"], scope["query_string"]))
        await echo(scope, receive, send)

    async def main() -> None:
        async with serving(noted, http) as server, Client(server) as client:
            client.say(handshake(target))
            assert (await client.answer())[0] == 101

    run(loop, main())
    path = b"/a/" if b"/a/" in target else b"/"
    assert seen == [(path.decode(), path, b"b" if b"?" in target else b"")]


def test_another_version_is_refused_with_the_one_that_is_spoken(loop: str, http: str) -> None:
    """https://www.rfc-editor.org/rfc/rfc6455#section-4.4"""

    async def main() -> None:
        async with serving(echo, http) as server, Client(server) as client:
            data = handshake().replace(b"Version: 13", b"Version: 8")
            client.say(data)
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 426 ")
            assert b"\r\nsec-websocket-version: 13\r\n" in head.lower()
            assert b"Only version 13" in await client.rest()

    run(loop, main())


@pytest.mark.parametrize("make", [request, handshake])
@pytest.mark.parametrize("name", TOO_LARGE)
@pytest.mark.parametrize("piece", [1 << 20, 5000])
def test_what_is_larger_is_answered_with_431(
    loop: str, http: str, name: str, piece: int, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving(echo, http) as server:
            for _ in range(3):
                async with Client(server) as client:
                    data = make(b"/a/path/?token=secret", *TOO_LARGE[name])
                    for start in range(0, len(data), piece):
                        client.say(data[start : start + piece])
                        await asyncio.sleep(0)
                    assert (await client.answer())[0] == 431
                    assert await client.rest() == b""
            async with Client(server) as client:
                client.say(request())
                assert (await client.answer())[0] == 200

    run(loop, main())
    [line] = told(caplog)
    assert line.endswith(
        " /a/path/ refused with 431: Request header fields too large. (client 127.0.0.1)"
    )


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "begin", [b"GET /", b"GET / HTTP/1.1\r\nCookie: ", b"GET / HTTP/1.1\r\n", b"x" * 20 + b" /"]
)
def test_a_head_without_an_end_is_answered_with_431_at_once(
    loop: str, http: str, begin: bytes
) -> None:
    """The client sends on until it has an answer."""
    more = b"a: b\r\n" * 700 if begin.endswith(b"\n") else b"x" * 4000

    async def main() -> None:
        async with serving(echo, http) as server, Client(server) as client:
            client.say(begin)
            answer = asyncio.create_task(client.answer())
            sent = 0
            while not answer.done():
                client.say(more)
                sent += len(more)
                await asyncio.sleep(0.001)
            assert (await answer)[0] in (431, 400)
            assert sent < 1024 * KIB

    run(loop, main())


def test_the_limit_can_be_set(loop: str, http: str) -> None:
    async def main() -> None:
        limits = Limits(max_header_size=300 * KIB)
        async with serving(echo, http, limits=limits) as server:
            for make, good in ((request, 200), (handshake, 101)):
                for size, status in ((290, good), (310, 431)):
                    async with Client(server) as client:
                        client.say(make(b"/", b"Cookie: " + b"x" * size * KIB))
                        assert (await client.answer())[0] == status

    run(loop, main())


@pytest.mark.parametrize(
    ("header", "body"),
    [(b"Content-Length: 5", b"hello"), (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n")],
)
def test_a_handshake_with_a_body_is_answered_with_400(
    loop: str, http: str, header: bytes, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving(echo, http) as server:
            for sent in (body, b""):
                async with Client(server) as client:
                    client.say(handshake(b"/a/", header), sent)
                    assert await client.answer() == (400, b"A WebSocket handshake has no body.")
                    assert await client.rest() == b""

    run(loop, main())
    assert told(caplog) == [
        "GET /a/ refused with 400: A WebSocket handshake has no body. (client 127.0.0.1)"
    ]


@pytest.mark.parametrize("method", [b"POST", b"PUT"])
def test_a_handshake_that_is_no_get_is_answered(loop: str, http: str, method: bytes) -> None:
    async def main() -> None:
        async with serving(echo, http) as server, Client(server) as client:
            client.say(handshake(method=method))
            assert (await client.answer())[0] == 405

    run(loop, main())


@pytest.mark.parametrize("ws", ["websockets-sansio", "wsproto"])
def test_uvicorns_own_classes_answer_as_well(loop: str, http: str, ws: str) -> None:
    """What their library would take for silence."""

    async def main() -> None:
        async with serving(echo, http, ws=ws) as server:
            for headers, status in (
                ([b"Cookie: " + b"x" * 8000], 101),
                ([b"Cookie: " + b"x" * 8192], 431),
                (LARGE["many headers"], 431),
                ([b"Content-Length: 5"], 400),
            ):
                async with Client(server) as client:
                    client.say(handshake(b"/", *headers))
                    assert (await client.answer())[0] == status

    run(loop, main())


@pytest.mark.parametrize(
    "bad", [b"nonsense\r\n\r\n", b"GET / FTP/1.0\r\n\r\n", b"\x16\x03\x01\x02"]
)
def test_what_is_no_http_is_answered_with_400_and_one_line(
    loop: str, http: str, bad: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving(echo, http) as server:
            for _ in range(20):
                async with Client(server) as client:
                    client.say(bad * 10)
                    assert (await client.answer())[0] == 400
                    assert await client.rest() == b""

    run(loop, main())
    assert len(told(caplog)) == 1


def test_uvicorn_has_no_such_limits_itself(
    loop: str, http: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it does with them. Where this fails, see whether ours are still needed."""
    theirs = {"httptools": HttpToolsProtocol, "h11": H11Protocol}[http]
    monkeypatch.setattr("tests.support.serving.http_protocol", lambda name: theirs)

    async def main() -> None:
        async with serving(echo, http, ws="websockets-sansio") as server:
            async with Client(server) as client:
                client.say(handshake(b"/", b"Cookie: " + b"x" * 8192))
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await client.answer()
            for connection in list(server.server_state.connections):
                with pytest.raises(AssertionError):  # and so the server's end would fail
                    connection.shutdown()
                connection.transport.abort()

    run(loop, main())
