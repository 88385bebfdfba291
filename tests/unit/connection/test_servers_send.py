"""What a server's ``send`` may give and raise: any awaitable, and faults of its own."""

from __future__ import annotations

import asyncio
import logging
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any

import pytest

from django_ws import ConnectionClosed, WebSocketHandler
from tests.support.asgi_peer import Peer, turns, until
from tests.support.handlers import Quiet

LOG = "django.ws.request"

Call = Coroutine[Any, Any, None]


class OnlyNext:
    """As Granian's: what ``__await__`` gives has ``__next__`` and nothing else."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def __await__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return self._call.send(None)


class WithThrow(OnlyNext):
    def throw(self, error: BaseException) -> Any:
        return self._call.throw(error)


@types.coroutine
def generator_based(call: Call) -> Generator[Any, Any, None]:
    """An awaitable without ``__await__``."""
    yield from call


def future(call: Call) -> asyncio.Future[None]:
    return asyncio.ensure_future(call)


AWAITABLES: dict[str, Callable[[Call], Awaitable[None]]] = {
    "a coroutine": lambda call: call,
    "an iterator with __next__ alone": OnlyNext,
    "an iterator with throw": WithThrow,
    "a generator-based coroutine": generator_based,
    "a future": future,
}


class Giving(Peer):
    """A server whose ``send`` gives some kind of awaitable."""

    def __init__(self, wrap: Callable[[Call], Awaitable[None]], **options: Any) -> None:
        super().__init__(Quiet, **options)
        self._wrap = wrap

    def _send(self, event: Any) -> Awaitable[None]:
        return self._wrap(self._take(event))


@pytest.fixture(params=list(AWAITABLES))
def wrap(request: pytest.FixtureRequest) -> Any:
    return AWAITABLES[request.param]


@pytest.mark.parametrize("blocks", [False, True], ids=["at once", "after it blocked"])
async def test_any_awaitable_is_awaited_to_its_end(
    wrap: Callable[[Call], Awaitable[None]], blocks: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with Giving(wrap) as peer:
        if blocks:
            peer.block()
        sending = [peer.handler.send(number) for number in range(3)]
        await turns()
        peer.unblock()
        for each in sending:
            await each
        assert peer.texts == ["0", "1", "2"]
        assert peer.handler.connected
        await peer.handler.close(4001, "bye")
        assert peer.closes == [(4001, "bye")]
    assert caplog.records == []


async def test_an_error_of_any_awaitable_ends_the_sending(
    wrap: Callable[[Call], Awaitable[None]],
) -> None:
    async with Giving(wrap) as peer:
        peer.block()
        peer.send_error = OSError("gone")
        sending = peer.handler.send(1)
        await turns()
        peer.unblock()
        with pytest.raises(ConnectionClosed):
            await sending


async def test_a_client_that_leaves_ends_a_send_under_way(
    wrap: Callable[[Call], Awaitable[None]],
) -> None:
    async with Giving(wrap) as peer:
        peer.block()
        sending = peer.handler.send(1)
        await turns()
        peer.leave()
        with pytest.raises(ConnectionClosed):
            await sending
        await peer.ended()
        assert peer.texts == []


async def test_what_the_servers_send_leads_to_itself_waits_whatever_it_gives(
    wrap: Callable[[Call], Awaitable[None]],
) -> None:
    async with Giving(wrap) as peer:

        def log(event: dict[str, Any]) -> None:
            peer.on_send = lambda event: None
            peer.handler.send("log")

        peer.on_send = log
        await peer.handler.send("message")
        await until(lambda: len(peer.texts) == 2)
        assert peer.texts == ['"message"', '"log"']


class Sending:
    """An awaitable whose iterator takes what is sent into it."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    def __await__(self) -> Generator[Any, Any, None]:
        self.got.append((yield))


async def test_what_is_sent_into_the_waiting_call_reaches_the_servers() -> None:
    """Another library's loop may send values where asyncio sends None."""
    from django_ws.connection.outbound import _resume

    awaitable = Sending()
    iterator = awaitable.__await__()
    resumed: Any = _resume(iterator, next(iterator))
    next(resumed)
    with pytest.raises(StopIteration):
        resumed.send("a value")
    assert awaitable.got == ["a value"]


# --- faults of the server ---------------------------------------------------------------------

DEFECTS = [
    TypeError("text must be a str"),
    AttributeError("no attribute 'send'"),
    KeyError("type"),
    RuntimeError("Unsupported ASGI message"),
    RuntimeError(),
]


def records_of(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("error", DEFECTS, ids=repr)
@pytest.mark.parametrize("blocks", [False, True], ids=["at once", "after it blocked"])
async def test_a_defect_of_the_server_is_logged_with_its_traceback(
    error: Exception, blocks: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with Peer(Quiet) as peer:
        peer.send_error = error
        if blocks:
            peer.block()
        sending = [peer.handler.send(number) for number in range(3)]
        peer.unblock()
        for each in sending:
            with pytest.raises(ConnectionClosed):
                await each
    [record] = records_of(caplog)
    assert record.levelname == "ERROR"
    assert record.name == LOG
    assert "WebSocket /ws/: the server's send() failed" in record.message
    assert type(error).__name__ in record.message
    assert record.exc_info
    assert record.exc_info[1] is error


async def test_a_send_that_gives_nothing_to_await_is_a_defect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Wrong(Peer):
        def _send(self, event: Any) -> Any:
            if event["type"] == "websocket.send":
                return None
            return super()._send(event)

    async with Wrong(Quiet) as peer:
        with pytest.raises(ConnectionClosed):
            await peer.handler.send(1)
    [record] = records_of(caplog)
    assert "await" in record.message


async def test_the_same_defect_of_many_connections_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(20):
        async with Peer(Quiet) as peer:
            peer.send_error = TypeError("text must be a str")
            peer.handler.send(1)
    assert len(records_of(caplog)) == 1


class Disconnected(RuntimeError):
    """As daphne's."""


class LocalProtocolError(Exception):
    """As wsproto's."""


LOST = [
    OSError(32, "Broken pipe"),
    ConnectionResetError(),
    EOFError(),
    Disconnected("Attempt to send"),
    LocalProtocolError("Event cannot be sent in state ConnectionState.CLOSED."),
    RuntimeError("Unexpected ASGI message 'websocket.send', after sending 'websocket.close'."),
    RuntimeError("ASGI flow error: Connection already upgraded"),  # as Granian's
    RuntimeError("Event loop is closed"),
    asyncio.CancelledError(),
]


@pytest.mark.parametrize("error", LOST, ids=repr)
@pytest.mark.parametrize("blocks", [False, True], ids=["at once", "after it blocked"])
async def test_a_lost_connection_is_no_defect(
    error: BaseException, blocks: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with Peer(Quiet) as peer:
        peer.send_error = error
        if blocks:
            peer.block()
        sending = peer.handler.send(1)
        peer.unblock()
        with pytest.raises(ConnectionClosed):
            await sending
    assert records_of(caplog) == []


async def test_a_defect_in_the_answer_to_a_handshake_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Refuses(WebSocketHandler):
        async def on_connect(self) -> None:
            await self.reject(401)

    peer = Peer(Refuses, opens=False)
    peer.send_error = TypeError("status must be a str")
    async with peer:
        with suppress(ConnectionClosed):
            await peer.ended()
    [record] = records_of(caplog)
    assert "the server's send() failed" in record.message
