"""What comes from outside (paths, headers, threads, wrong calls), and what stays in memory."""

import asyncio
import gc
import logging
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from pytest_django import Settings

from django_ws import Reject, WebSocketHandler
from django_ws.lifecycle.background_tasks import Background
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.asgi_peer import PATH, SECONDS, Peer, client, handlers, route, until
from tests.support.handlers import Quiet


async def forever() -> None:
    await asyncio.Event().wait()


# --- paths and headers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "status", "message"),
    [(None, 404, "no route"), ("http://evil.example", 403, "evil.example")],
    ids=["no route", "foreign origin"],
)
async def test_a_path_cannot_forge_a_line_of_the_log(
    origin: str | None, status: int, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "django.ws.request")
    with route(Quiet), pytest.raises(HandshakeRejected) as refused:
        async with WebSocketClient("/nope%0D%0AERROR forged%1B[2J", origin=origin):
            pass
    assert refused.value.status == status
    [record] = caplog.records
    assert message in record.getMessage()
    assert r"/nope\r\nERROR forged\x1b[2J" in record.getMessage()
    assert "\n" not in record.getMessage()


async def test_long_host_headers_do_not_stay_in_memory(settings: Settings) -> None:
    settings.ALLOWED_HOSTS = ["*"]

    async def shake_hands(number: int) -> None:
        host = f"h{number:05}{'x' * 60_000}"
        async with WebSocketClient(PATH, headers={"host": host}, origin=None, timeout=SECONDS):
            handlers.clear()

    with route(Quiet):
        await shake_hands(0)
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for number in range(1, 1500):
                await shake_hands(number)
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert after - before < 5_000_000


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ([("Retry-After", 30)], TypeError),
        ([(b"Retry-After", b"30")], TypeError),
        ([("Retry-After", None)], TypeError),
        ([("X-Name", "€")], ValueError),
        ([("X-Name", "a\r\nSet-Cookie: b")], ValueError),
        ([("X\nName", "a")], ValueError),
    ],
    ids=["int", "bytes", "None", "not latin-1", "line end", "line end in the name"],
)
async def test_headers_of_a_rejection_that_cannot_be_sent_raise_at_the_call(
    headers: Any, error: type[Exception]
) -> None:
    caught: list[str] = []

    class Handler(WebSocketHandler):
        async def on_connect(self) -> None:
            with pytest.raises(error, match="headers") as raised:
                self.reject(429, "slow down", headers)
            caught.append(str(raised.value))

    with pytest.raises(error, match="headers"):
        raise Reject(429, "slow down", headers)
    async with Peer(Handler) as peer:  # has accepted: nothing was refused by half
        assert peer.handler.connected
    assert len(caught) == 1


async def test_the_body_of_each_request_can_be_read_twice() -> None:
    with route(Quiet):
        for _ in range(2):
            async with WebSocketClient(PATH, timeout=SECONDS):
                request = handlers[-1].request
                for _ in range(2):
                    assert request.read() == b""
                    assert request.body == b""
                    assert request.readlines() == []
                request.close()


# --- background tasks from outside ------------------------------------------------------------


async def test_a_task_started_in_a_plain_thread_uses_the_connections_threads() -> None:
    names: list[str] = []

    async def task() -> None:
        names.append(await sync_to_async(lambda: threading.current_thread().name)())

    async with Peer(Quiet) as peer:
        thread = threading.Thread(target=peer.handler.start_task, args=("task", task))
        thread.start()
        await until(lambda: names)
        await until(lambda: not thread.is_alive())
        assert names[0].startswith("django_ws")


async def test_reading_tasks_before_any_was_started_creates_nothing() -> None:
    def count() -> int:
        return sum(isinstance(thing, Background) for thing in gc.get_objects())

    async with Peer(Quiet) as peer:
        gc.collect()
        before = count()
        assert peer.handler.tasks == {}
        assert await asyncio.to_thread(lambda: peer.handler.tasks) == {}
        await peer.handler.cancel_task("unknown")
        assert count() == before
        task = peer.handler.start_task("task", forever)
        assert peer.handler.tasks == {"task": task}
        await peer.handler.cancel_task("unknown")
        assert not task.done()


async def test_tasks_and_cancel_task_after_the_end() -> None:
    async with Peer(Quiet) as peer:
        peer.handler.start_task("task", forever)
        peer.leave()
        await peer.ended()
        assert peer.handler.tasks == {}
        await peer.handler.cancel_task("task")


# --- memory after the end ---------------------------------------------------------------------


class Plain(WebSocketHandler):
    """A life with every kind of hook, and with a task."""

    async def on_open(self) -> None:
        self.start_task("task", forever)

    async def on_message(self, message: Any) -> None:
        await self.send(message)

    async def on_close(self) -> None:
        pass


class Threaded(WebSocketHandler):
    """The same in threads."""

    def on_open(self) -> None:
        self.start_task("task", forever)

    def on_message(self, message: Any) -> None:
        self.send(message)

    def on_close(self) -> None:
        pass


async def live(handler_class: type[WebSocketHandler]) -> "weakref.ref[Any]":
    async with Peer(handler_class) as peer:
        handler = weakref.ref(peer.handler)
        peer.say("1")
        await until(lambda: "1" in peer.texts or handler_class is Quiet)
        peer.leave()
        await peer.ended()
    return handler


def ours(things: Sequence[Any]) -> list[str]:
    """The types of what belongs to a connection; the rest is Django's, or the test's."""
    return [
        str(type(thing))
        for thing in things
        if type(thing).__module__.startswith("django_ws") or isinstance(thing, WebSocketHandler)
    ]


@pytest.mark.parametrize("handler_class", [Quiet, Plain, Threaded])
async def test_a_life_leaves_nothing_to_the_garbage_collector(
    handler_class: type[WebSocketHandler],
) -> None:
    await live(handler_class)  # what is made once is made now
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        handler = await live(handler_class)
        await until(lambda: handler() is None)  # a thread may be about to let go of it
        gc.collect()
        left = ours(gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == []


# --- other environments -----------------------------------------------------------------------


def test_the_live_server_is_imported_with_uvicorn() -> None:
    from django_ws.testing import WebSocketLiveServerTestCase
    from django_ws.testing.live import WebSocketLiveServerTestCase as itself

    assert WebSocketLiveServerTestCase is itself


def test_an_unknown_name_in_testing_is_an_attribute_error() -> None:
    import django_ws.testing

    with pytest.raises(AttributeError, match=r"'django_ws\.testing' has no attribute 'Nothing'"):
        _ = django_ws.testing.Nothing


if sys.version_info >= (3, 12):

    @pytest.fixture
    async def _eager() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)

    @pytest.mark.usefixtures("_eager")
    async def test_with_eager_tasks_sends_from_a_callback_of_the_loop_go_on() -> None:
        class Handler(WebSocketHandler):
            async def on_open(self) -> None:
                asyncio.get_running_loop().call_soon(self.send, "from a callback")

            async def on_message(self, message: Any) -> None:
                await self.send(message)

        async with client(Handler) as ws:
            assert await ws.receive() == "from a callback"
            await ws.send("echo")
            assert await ws.receive() == "echo"

    @pytest.mark.usefixtures("_eager")
    async def test_with_eager_tasks_reading_ahead_goes_on() -> None:
        handled: list[int] = []

        class Handler(WebSocketHandler):
            async def on_message(self, message: int) -> None:
                if message == 0:
                    await until(lambda: peer.received > 5)  # read ahead while this waits
                handled.append(message)

        async with Peer(Handler) as peer:
            peer.say(*map(str, range(25)))
            peer.leave()
            await peer.ended()
        assert handled == list(range(25))
