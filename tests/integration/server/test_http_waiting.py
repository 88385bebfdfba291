"""Clients that do not finish their request: how long the server waits, and for how many."""

from __future__ import annotations

import asyncio
import resource
import weakref
from contextlib import AsyncExitStack
from typing import Any

import pytest

from django_ws.server.http import waiting
from django_ws.server.http.limits import Limits, default_max_waiting
from django_ws.server.http.waiting import Phase, Waiting
from tests.integration.server.test_http_bounds import echo, told
from tests.support.asgi_peer import until
from tests.support.serving import HTTPS, LOOPS, Client, handshake, request, run, serving

both = [pytest.mark.parametrize("http", HTTPS), pytest.mark.parametrize("loop", LOOPS)]
SOON = Limits(header_timeout=0.2)
LATE = (408, b"The request did not come in time.")
POST = request(b"/", b"Content-Length: 10", method=b"POST")


def with_both(test: Any) -> Any:
    for mark in both:
        test = mark(test)
    return test


@with_both
@pytest.mark.parametrize("half", [b"G", b"GET / HTTP/1.1\r\nHost: x", handshake()[:-2]])
def test_half_a_request_is_answered_with_408(
    loop: str, http: str, half: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving(echo, http, limits=SOON) as server:
            for _ in range(3):
                async with Client(server) as client:
                    client.say(half)
                    assert await client.answer() == LATE
                    assert await client.rest() == b""

    run(loop, main())
    assert len(told(caplog)) == 1
    assert "refused with 408: The request did not come in time. (client 127.0.0.1)" in caplog.text


@with_both
def test_a_request_that_drips_is_answered_with_408(loop: str, http: str) -> None:
    async def main() -> None:
        async with serving(echo, http, limits=SOON) as server, Client(server) as client:
            client.say(b"GET / HTTP/1.1\r\n")
            answer = asyncio.create_task(client.answer())
            while not answer.done():
                client.say(b"a: b\r\n")
                await asyncio.sleep(0.02)
            assert await answer == LATE

    run(loop, main())


@with_both
def test_a_client_that_says_nothing_is_closed_without_a_word(
    loop: str, http: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A browser may have opened it for later, and would show what it is answered."""

    async def main() -> None:
        async with serving(echo, http, limits=SOON) as server, Client(server) as client:
            assert await client.rest() == b""

    run(loop, main())
    assert told(caplog) == []


@with_both
def test_half_a_second_request_is_answered_with_408(loop: str, http: str) -> None:
    async def main() -> None:
        async with serving(echo, http, limits=SOON) as server, Client(server) as client:
            client.say(request())
            assert (await client.answer())[0] == 200
            client.say(request()[:20])
            assert await client.answer() == LATE

    run(loop, main())


@with_both
def test_a_kept_connection_has_its_own_time(loop: str, http: str) -> None:
    async def main() -> None:
        async with (
            serving(echo, http, limits=SOON, timeout_keep_alive=1) as server,
            Client(server) as client,
        ):
            client.say(request())
            assert (await client.answer())[0] == 200
            await asyncio.sleep(0.5)
            client.say(request())
            assert (await client.answer())[0] == 200
            assert await client.rest() == b""

    run(loop, main())


async def reading(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the whole body; behind /slow after a while."""
    body, more = b"", True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            gone.append(scope["path"])
            return
        body += event["body"]
        more = event["more_body"]
    if scope["path"] == "/slow":
        await asyncio.sleep(0.6)
    await answer(send, body)


async def answer(send: Any, body: bytes, status: int = 200) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


gone: list[str] = []


@with_both
@pytest.mark.parametrize("more", [b"", b"abc"])
def test_a_body_that_comes_no_further_is_answered_with_408(
    loop: str, http: str, more: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "BODY_SECONDS", 0.3)
    gone.clear()

    async def main() -> None:
        async with serving(reading, http, limits=SOON) as server, Client(server) as client:
            client.say(POST, more)
            assert await client.answer() == LATE
            await until(lambda: not server.server_state.tasks)
        assert gone == ["/"]

    run(loop, main())


@with_both
def test_a_body_that_comes_slowly_is_read(
    loop: str, http: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "BODY_SECONDS", 0.5)

    async def main() -> None:
        async with serving(reading, http, limits=SOON) as server, Client(server) as client:
            client.say(POST)
            for number in range(10):
                client.say(b"%d" % number)
                await asyncio.sleep(0.1)
            assert await client.answer() == (200, b"0123456789")

    run(loop, main())


@with_both
def test_a_body_whose_answer_was_given_already_ends_the_connection(
    loop: str, http: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "BODY_SECONDS", 0.3)

    async def not_reading(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"too much", 413)

    async def main() -> None:
        async with (
            serving(not_reading, http, limits=SOON, timeout_keep_alive=60) as server,
            Client(server) as client,
        ):
            client.say(POST)
            assert await client.answer() == (413, b"too much")
            client.say(b"abc")
            assert await client.rest() == b""

    run(loop, main())


@with_both
def test_a_body_that_is_being_answered_ends_the_connection(
    loop: str, http: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "BODY_SECONDS", 0.3)

    async def begins(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await reading(scope, receive, send)

    async def main() -> None:
        async with serving(begins, http, limits=SOON) as server, Client(server) as client:
            client.say(POST)
            rest = await client.rest()
            assert rest.startswith(b"HTTP/1.1 200 ")
            assert b"408" not in rest
            await until(lambda: not server.server_state.tasks)

    run(loop, main())


@with_both
def test_a_page_takes_as_long_as_it_takes(loop: str, http: str) -> None:
    async def main() -> None:
        async with serving(reading, http, limits=SOON) as server, Client(server) as client:
            client.say(request(b"/slow"))
            assert await client.answer() == (200, b"")
            # Half of the next request waits meanwhile, which is not its client's fault.
            client.say(request(b"/slow") + request()[:20])
            assert await client.answer() == (200, b"")
            client.say(request()[20:])
            assert await client.answer() == (200, b"")

    run(loop, main())


@with_both
def test_a_body_that_the_application_does_not_read_yet_is_waited_for(
    loop: str, http: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the client has sent waits in the server, which reads no more."""
    monkeypatch.setattr(waiting, "BODY_SECONDS", 0.3)

    async def later(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(1.0)
        size, more = 0, True
        while more:
            event = await receive()
            size += len(event["body"])
            more = event["more_body"]
        await answer(send, b"%d" % size)

    async def main() -> None:
        async with serving(later, http, limits=SOON) as server, Client(server) as client:
            size = 3_000_000
            client.say(request(b"/", b"Content-Length: %d" % size, method=b"POST"), b"x" * size)
            assert await client.answer() == (200, b"%d" % size)

    run(loop, main())


# Their number


async def opened(stack: AsyncExitStack, server: Any, count: int, data: bytes) -> list[Client]:
    clients = []
    for _ in range(count):
        client = await stack.enter_async_context(Client(server))
        client.say(data)
        clients.append(client)
    return clients


@with_both
@pytest.mark.parametrize("half", [b"", b"GET / HTTP/1.1\r\n", POST])
def test_the_oldest_make_room_for_others(
    loop: str,
    http: str,
    half: bytes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(waiting, "YOUNG_SECONDS", 0.05)
    monkeypatch.setattr(waiting, "LOOK_SECONDS", 0.05)

    async def main() -> None:
        limits = Limits(max_waiting=20, header_timeout=60.0)
        async with serving(reading, http, limits=limits) as server, AsyncExitStack() as stack:
            clients = await opened(stack, server, 50, half)
            for client in clients[:30]:
                assert await client.rest() == b""
            await until(lambda: len(server.server_state.connections) == 20)
            async with Client(server) as other:
                other.say(request())
                assert (await other.answer())[0] == 200
            async with Client(server) as other:
                other.say(handshake())
                assert (await other.answer())[0] == 500  # there are no sockets, but an answer
            assert not clients[-1].reader.at_eof()

    run(loop, main())
    lines = [line for line in told(caplog) if "dropped" in line]
    assert lines[0] == (
        "More than 20 connections wait for their client's request: the oldest are dropped. "
        "If these are not attackers, raise --max-waiting"
    )
    assert len(lines) == 1


@with_both
def test_those_that_are_kept_for_later_are_dropped_first(
    loop: str, http: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "YOUNG_SECONDS", 0.0)

    async def main() -> None:
        limits = Limits(max_waiting=10, header_timeout=60.0)
        async with (
            serving(reading, http, limits=limits, timeout_keep_alive=60) as server,
            AsyncExitStack() as stack,
        ):
            halves = await opened(stack, server, 5, b"GET / HTTP/1.1\r\n")
            kept = await opened(stack, server, 5, request())
            for client in kept:
                assert (await client.answer())[0] == 200
            for number in range(5):
                await opened(stack, server, 1, POST)
                assert await kept[number].rest() == b""
            assert not any(client.reader.at_eof() for client in halves)

    run(loop, main())


def test_many_that_have_just_come_are_not_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """What they have sent waits to be read: a storm of those who come back after a restart."""

    async def main() -> None:
        async with (
            serving(echo, limits=Limits(max_waiting=5)) as server,
            AsyncExitStack() as stack,
        ):
            for client in await opened(stack, server, 300, handshake()):
                assert (await client.answer())[0] == 101

    run("uvloop", main())
    assert told(caplog) == []


def test_there_is_one_timer_for_all() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        async with serving(echo) as server, AsyncExitStack() as stack:
            await opened(stack, server, 50, b"GET /")
            await until(lambda: len(server.server_state.connections) == 50)
            timers = [repr(timer) for timer in loop._scheduled]
            assert sum("_look(" in timer for timer in timers) == 1
            assert len(timers) < 10

    run("asyncio", main())


class Fake:
    """A connection, and its transport."""

    phase: Phase | None = None
    is_held_back = False
    is_timed_out = is_aborted = False

    def __init__(self, *, is_broken: bool = False) -> None:
        self.transport = self
        self._is_broken = is_broken

    def timed_out(self, phase: Phase) -> None:
        if self._is_broken:
            raise LookupError("a fault")
        self.is_timed_out = True

    def drop(self) -> None: ...

    def abort(self) -> None:
        self.is_aborted = True


async def test_one_that_cannot_be_ended_is_aborted_and_the_others_are_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    of_server = Waiting(asyncio.get_running_loop(), SOON)
    fakes = [Fake(), Fake(is_broken=True), Fake()]
    for fake in fakes:
        of_server.note(fake, Phase.HEAD)
    await until(lambda: not len(of_server))
    assert [fake.is_timed_out for fake in fakes] == [True, False, True]
    assert [fake.is_aborted for fake in fakes] == [False, True, False]
    assert told(caplog) == ["A connection could not be ended in time, and is aborted (Fake, Fake)"]


async def test_one_that_is_held_back_costs_no_second_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    loop: Any = asyncio.get_running_loop()
    of_server = Waiting(loop, Limits(header_timeout=0.04))
    fake = Fake()
    fake.is_held_back = True
    of_server.note(fake, Phase.HEAD)
    looks = 0
    look = Waiting.look

    def counted(self: Waiting) -> None:
        nonlocal looks
        looks += 1
        look(self)

    monkeypatch.setattr(Waiting, "look", counted)
    await until(lambda: looks > 20)  # it was late several times
    assert sum("_look(" in repr(timer) for timer in loop._scheduled) == 1
    of_server.note(fake, None)


@pytest.mark.parametrize("has_transport", [True, False], ids=["open", "beginning TLS"])
def test_one_that_cannot_be_dropped_harms_nobody(
    has_transport: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_ws.server.http.waiting.YOUNG_SECONDS", 0.0)

    class Broken(Fake):
        def drop(self) -> None:
            raise LookupError("a fault")

    async def main() -> None:
        of_server = Waiting(asyncio.get_running_loop(), Limits(max_waiting=1))
        broken, other = Broken(), Fake()
        if not has_transport:
            del broken.transport
        of_server.note(broken, Phase.HEAD)
        of_server.note(other, Phase.HEAD)
        assert len(of_server) == 1
        assert broken.is_aborted is has_transport
        of_server.note(other, None)

    asyncio.run(main())
    kind = "Broken" if has_transport else "NoneType"
    assert f"A connection could not be dropped, and is aborted (Broken, {kind})" in caplog.text
    assert "More than 1 connections wait" in caplog.text


async def test_the_timer_keeps_nothing_of_a_server_that_has_gone() -> None:
    loop = asyncio.get_running_loop()
    of_server = Waiting(loop, Limits(header_timeout=0.01))
    of_server.note(Fake(), Phase.HEAD)
    gone = weakref.ref(of_server)
    del of_server
    assert gone() is None
    await asyncio.sleep(0.1)  # the timer rings, and nobody is there


@pytest.mark.parametrize(
    ("files", "most"), [(1024, 256), (1 << 20, 8192), (3, 1), (resource.RLIM_INFINITY, 8192)]
)
def test_by_default_a_quarter_of_the_files_is_for_them(
    files: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (files, files))
    assert default_max_waiting() == most
