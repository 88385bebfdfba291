"""Requests behind one another in one packet, an upgrade among them, and what comes behind it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from django_ws.server.http import limited as http_module
from django_ws.server.http import refusing
from tests.support.asgi_peer import until
from tests.support.serving import HTTPS, LOOPS, Client, handshake, request, run, serving
from tests.support.wire import CLOSE, TEXT, frame

both = pytest.mark.parametrize(("loop", "http"), [(loop, http) for loop in LOOPS for http in HTTPS])

HELLO = frame(TEXT, b"hello")


class Site:
    """Pages that are answered when they may be, and sockets that echo."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.begun: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun.append(scope["path"])
        closes = [(b"connection", b"close")] * scope["path"].endswith("/closes")
        if scope["type"] == "http":
            if scope["path"].startswith("/waits"):
                await self.may_answer.wait()
            body, more = b"", True
            while more:
                event = await receive()
                if event["type"] == "http.disconnect":
                    return
                body += event["body"]
                more = event["more_body"]
            headers = [(b"content-length", b"%d" % (len(scope["path"]) + len(body)))]
            await send({
                "type": "http.response.start",
                "status": 200,
                "headers": headers + closes,
            })  # fmt: skip
            await send({"type": "http.response.body", "body": scope["path"].encode() + body})
            return
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({**event, "type": "websocket.send"})


@both
def test_they_are_answered_in_order(loop: str, http: str) -> None:
    async def main() -> None:
        async with serving(Site(), http) as server, Client(server) as client:
            client.say(*[request(b"/%d" % number) for number in range(3000)])
            for number in range(3000):
                assert await client.answer() == (200, b"/%d" % number)

    run(loop, main())


@both
@pytest.mark.parametrize("pages", [1, 3])
@pytest.mark.parametrize("path", [b"/waits", b"/page"])
def test_an_upgrade_waits_for_the_pages_before_it(
    loop: str, http: str, pages: int, path: bytes
) -> None:
    async def main() -> None:
        site = Site()
        async with serving(site, http) as server, Client(server) as client:
            client.say(*[request(path)] * pages, handshake(b"/socket"), HELLO)
            if path == b"/waits":
                await until(lambda: site.begun)
                client.say(HELLO)
                await asyncio.sleep(0.1)
                assert site.begun == ["/waits"]
                site.may_answer.set()
            for _ in range(pages):
                assert await client.answer() == (200, path)
            assert (await client.answer())[0] == 101
            assert await client.exactly(7) == b"\x81\x05hello"
            if path == b"/waits":
                assert await client.exactly(7) == b"\x81\x05hello"
            client.say(frame(CLOSE, b"\x03\xe8"))
            assert await client.rest() == b"\x88\x02\x03\xe8"

    run(loop, main())


@pytest.mark.parametrize("http", HTTPS)
def test_what_a_transport_gives_though_it_should_not_waits_as_well(
    http: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "TURN_SECONDS", 0.0)

    async def main() -> None:
        site = Site()
        async with serving(site, http) as server, Client(server) as client:
            client.say(request(b"/waits"))
            await until(lambda: site.begun)
            connection: Any
            [connection] = server.server_state.connections
            connection.data_received(handshake(b"/socket"))
            connection.data_received(HELLO)
            # What is held is parsed once, however often it is asked for.
            connection.flow.resume_reading()
            site.may_answer.set()
            assert (await client.answer())[0] == 200
            assert (await client.answer())[0] == 101
            assert await client.exactly(7) == b"\x81\x05hello"
        async with serving(site, http) as server, Client(server) as client:
            client.say(b"POST /")
            await until(lambda: server.server_state.connections)
            [connection] = server.server_state.connections
            await until(lambda: connection._reads() is not None)
            head = b" HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\n"
            connection.data_received(head + b"x" * 30_000)
            connection.data_received(b"x" * 10_000)
            for _ in range(2):
                connection.flow.pause_reading()
                connection.flow.resume_reading()
            client.say(b"x" * 10_000)
            assert await client.answer() == (200, b"/" + b"x" * 50_000)

    run("uvloop", main())


@both
def test_what_comes_behind_a_handshake_is_not_lost(loop: str, http: str) -> None:
    async def main() -> None:
        messages = [frame(TEXT, b"%d" % number) for number in range(10_000)]
        async with serving(Site(), http) as server, Client(server) as client:
            client.say(handshake(b"/socket"), *messages)
            assert (await client.answer())[0] == 101
            echoes = b"".join(bytes([0x81, len(b"%d" % n)]) + b"%d" % n for n in range(10_000))
            assert await client.exactly(len(echoes)) == echoes

    run(loop, main())


@both
@pytest.mark.parametrize(
    "page", [request(b"/waits", b"Connection: close"), request(b"/waits/closes")]
)
def test_an_upgrade_behind_a_page_that_closes_is_dropped(loop: str, http: str, page: bytes) -> None:
    async def main() -> None:
        site = Site()
        async with serving(site, http) as server, Client(server) as client:
            client.say(page, handshake(b"/socket"))
            await until(lambda: site.begun)
            site.may_answer.set()
            assert (await client.answer())[0] == 200
            assert await client.rest() == b""
            assert len(site.begun) == 1

    run(loop, main())


@both
def test_a_refused_upgrade_behind_a_page_is_answered(loop: str, http: str) -> None:
    async def main() -> None:
        site = Site()
        async with serving(site, http) as server, Client(server) as client:
            client.say(request(b"/waits"), handshake(b"/socket", b"Content-Length: 3"), b"abc")
            await until(lambda: site.begun)
            site.may_answer.set()
            assert await client.answer() == (200, b"/waits")
            assert (await client.answer())[0] == 400
            assert await client.rest() == b""

    run(loop, main())


@both
@pytest.mark.parametrize("bad", [b"nonsense\r\n\r\n", request(b"/", b"a: " + b"x" * 70_000)])
@pytest.mark.parametrize("pages", [1, 2])
def test_nonsense_behind_pages_is_answered_after_them(
    loop: str, http: str, bad: bytes, pages: int
) -> None:
    async def main() -> None:
        site = Site()
        async with serving(site, http) as server, Client(server) as client:
            client.say(*[request(b"/waits")] * pages, bad)
            await until(lambda: site.begun)
            client.say(b"more of it")
            await asyncio.sleep(0.05)
            site.may_answer.set()
            for _ in range(pages):
                assert await client.answer() == (200, b"/waits")
            assert (await client.answer())[0] in (400, 431)
            assert await client.rest() == b""

    run(loop, main())


@both
def test_a_body_that_is_no_body_is_answered_with_400(loop: str, http: str) -> None:
    async def main() -> None:
        async with serving(Site(), http) as server, Client(server) as client:
            client.say(
                request(b"/", b"Transfer-Encoding: chunked", method=b"POST"), b"nonsense\r\n"
            )
            assert (await client.answer())[0] == 400
            assert await client.rest() == b""
            await until(lambda: not server.server_state.tasks)

    run(loop, main())


@both
def test_who_is_refused_may_send_on_for_a_while(loop: str, http: str) -> None:
    """Otherwise its kernel would throw the answer away."""

    async def main() -> None:
        async with serving(Site(), http) as server, Client(server) as client:
            client.say(b"nonsense\r\n\r\n" + b"x" * 300_000)
            await until(lambda: server.server_state.connections)
            assert (await client.answer())[0] == 400
            client.say(b"x" * 100_000)
            assert await client.rest() == b""
            client.writer.write_eof()
            await until(lambda: not server.server_state.connections)

    run(loop, main())


@both
def test_who_is_refused_may_not_send_on_for_ever(
    loop: str, http: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusing, "LINGER_SECONDS", 60.0)

    async def main() -> None:
        async with serving(Site(), http) as server, Client(server) as client:
            client.say(b"nonsense\r\n\r\n")
            assert (await client.answer())[0] == 400
            with pytest.raises(ConnectionError):  # noqa: PT012  # some time
                for _ in range(10_000):
                    client.say(b"x" * 10_000)
                    await client.writer.drain()
            await until(lambda: not server.server_state.connections)

    run(loop, main())


@both
def test_who_is_refused_and_does_not_leave_is_left(
    loop: str, http: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusing, "LINGER_SECONDS", 0.1)

    async def main() -> None:
        async with serving(Site(), http) as server, Client(server) as client:
            client.say(b"nonsense\r\n\r\n")
            assert (await client.answer())[0] == 400
            await until(lambda: not server.server_state.connections)

    run(loop, main())


@both
def test_who_is_refused_does_not_hold_up_the_servers_end(loop: str, http: str) -> None:
    async def main() -> None:
        async with serving(Site(), http) as server, Client(server) as client:
            client.say(b"nonsense\r\n\r\n")
            assert (await client.answer())[0] == 400
            [connection] = server.server_state.connections
            connection.shutdown()
            assert connection.transport.is_closing()

    run(loop, main())


@both
def test_others_have_their_turn_while_much_is_parsed(
    loop: str, http: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body in tiny chunks, each of which takes its time."""
    monkeypatch.setattr(http_module, "TURN_SECONDS", 0.0)  # one piece in each turn
    count = 40_000
    most = [0]
    turns = [0]

    async def main() -> None:
        running = asyncio.get_running_loop()

        def turn() -> None:
            turns[0] += 1
            if not done.is_set():
                running.call_soon(turn)

        done = asyncio.Event()
        async with serving(Site(), http) as server, Client(server) as client:
            client.say(request(b"/", b"Transfer-Encoding: chunked", method=b"POST"))
            await until(lambda: server.server_state.connections)
            connection: Any
            [connection] = server.server_state.connections
            parse, last = connection._parse, [0]

            def noting(data: bytes) -> None:
                if turns[0] == last[0]:
                    most[0] += len(data)
                else:
                    last[0], most[0] = turns[0], len(data)
                assert most[0] <= 2 * http_module.PIECE  # the end of a read, the begin of one
                parse(data)

            connection._parse = noting
            running.call_soon(turn)
            client.say(b"1\r\nx\r\n" * count, b"0\r\n\r\n")
            assert await client.answer() == (200, b"/" + b"x" * count)
            done.set()

    run(loop, main())
    assert turns[0] > count * 6 / http_module.PIECE


@both
def test_an_upgrade_to_another_protocol_is_answered_as_a_page(
    loop: str, http: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As curl and Java ask for HTTP/2; what they send behind it is answered, too."""
    asks = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")

    async def main() -> None:
        async with serving(Site(), http) as server:
            async with Client(server) as client:
                client.say(request(b"/1", *asks), request(b"/2"))
                assert await client.answer() == (200, b"/1")
                assert await client.answer() == (200, b"/2")
                client.say(request(b"/3", *asks))
                assert await client.answer() == (200, b"/3")
            async with Client(server) as client:
                client.say(request(b"/", b"Content-Length: 4", *asks, method=b"POST"), b"body")
                status, body = await client.answer()
                # httptools would take the body for the other protocol.
                assert (status, body) == (200, b"/body") if http == "h11" else status == 400

    run(loop, main())


def test_uvicorn_still_answers_a_page_within_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does with an upgrade behind a page; our own waiting can go when this fails."""
    monkeypatch.setattr("tests.support.serving.http_protocol", lambda name: HttpToolsProtocol)

    async def main() -> None:
        site = Site()
        async with serving(site) as server, Client(server) as client:
            client.say(request(b"/waits"), handshake(b"/socket"))
            assert (await client.answer())[0] == 101
            site.may_answer.set()
            assert await client.answer() == (200, b"/waits")

    run("uvloop", main())
