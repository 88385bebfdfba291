"""What surrounds a unit of sync work, what is left of it, and what waits for it too long."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from weakref import WeakMethod

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import connection, connections
from pytest_django import Settings

from django_ws import WebSocketHandler
from django_ws.auth.recheck import recheck_here
from django_ws.testing import HandshakeRejected, WebSocketClient
from django_ws.threads import pool as sync
from django_ws.threads.pool import InOrder
from tests.support.asgi_peer import PATH, Peer, client, handlers, route, the_handler, until

pytestmark = pytest.mark.django_db(transaction=True)


class Surrounded(WebSocketHandler):
    """Sets something on the thread's database connection while its own work runs."""

    entered: list[str]
    depth = 0

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.entered = []

    @contextmanager
    def unit_of_work(self) -> Iterator[None]:
        type(self).entered.append(threading.current_thread().name)
        connection.tenant = "mine"  # type: ignore[attr-defined]
        try:
            yield
        finally:
            del connection.tenant  # type: ignore[attr-defined]

    def tenant(self) -> Any:
        return getattr(connection, "tenant", None)


async def test_it_surrounds_sync_hooks_calls_and_queries() -> None:
    class Handler(Surrounded):
        def on_open(self) -> None:
            self.send(["sync hook", self.tenant()])

        async def on_message(self, message: Any) -> None:
            await self.send(["sync_to_async", await sync_to_async(self.tenant)()])
            before = len(self.entered)
            await User.objects.acount()
            await self.send(["async ORM", len(self.entered) - before])

    async with client(Handler) as ws:
        await ws.send(1)
        assert [await ws.receive() for _ in range(3)] == [
            ["sync hook", "mine"],
            ["sync_to_async", "mine"],
            ["async ORM", 1],
        ]
    assert all(name.startswith("django_ws") for name in Handler.entered)


async def test_an_exception_passes_through_it_and_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    class Handler(Surrounded):
        def on_message(self, message: Any) -> None:
            raise ZeroDivisionError

    async with Peer(Handler) as peer:
        peer.say("1")
        await peer.ended()
        assert [code for code, _ in peer.closes] == [1011]
    assert "ZeroDivisionError" in caplog.text


async def test_the_checks_of_the_log_in_run_in_it_too(settings: Settings) -> None:
    class Handler(Surrounded):
        pass

    user = await User.objects.acreate(username="alice")
    async with client(Handler, user=user) as ws:
        before = len(Handler.entered)
        the_handler().request.login.check()
        await until(lambda: len(Handler.entered) > before)
        await ws.receive_nothing()
        user.is_active = False
        await user.asave()
        assert await ws.wait_closed() == 4401


async def test_all_log_ins_of_one_connection_are_checked_together() -> None:
    watches = []

    class Handler(Surrounded):
        async def on_message(self, message: Any) -> None:
            watches.extend([recheck_here(), recheck_here()])
            await self.send("done")

    async with client(Handler) as ws:
        await ws.send(1)
        await ws.receive()
    assert watches[0] is watches[1]


async def test_two_connections_have_theirs_apart() -> None:
    class Handler(Surrounded):
        @contextmanager
        def unit_of_work(self) -> Iterator[None]:
            connection.tenant = self.kwargs["name"]  # type: ignore[attr-defined]
            yield
            del connection.tenant  # type: ignore[attr-defined]

        def on_message(self, message: Any) -> None:
            self.send(self.tenant())

    with route(Handler, url="ws/<name>/"):
        async with WebSocketClient("/ws/a/") as one, WebSocketClient("/ws/b/") as two:
            for _ in range(20):
                await one.send(1)
                await two.send(1)
                assert [await one.receive(), await two.receive()] == ["a", "b"]


async def test_it_keeps_no_handler_alive() -> None:
    class Handler(Surrounded):
        def on_message(self, message: Any) -> None:
            self.send(1)

    gc.disable()
    try:
        async with client(Handler) as ws:
            await ws.send(1)
            await ws.receive()
            handler = weakref.ref(handlers.pop())
        del ws
        await until(lambda: handler() is None)
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", ["coroutine", "int"])
async def test_one_that_cannot_be_entered_is_an_error_that_names_it(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def coroutine(self: Any) -> None: ...

    def number(self: Any) -> int:
        return 5

    def on_connect(self: Any) -> None: ...

    function = coroutine if kind == "coroutine" else number
    Handler: Any = type(
        "Handler", (WebSocketHandler,), {"unit_of_work": function, "on_connect": on_connect}
    )
    with pytest.raises(HandshakeRejected) as refused:
        async with client(Handler):
            pass
    assert refused.value.status == 500
    assert f"unit_of_work() gave {kind} instead of a context manager" in caplog.text


async def test_what_a_unit_leaves_on_a_connection_is_not_there_for_the_next(
    settings: Settings,
) -> None:
    """As a schema or a tenant that a hook has set, where nobody resets it."""
    settings.WS_SYNC_THREADS = 1

    class Handler(WebSocketHandler):
        def on_message(self, message: Any) -> None:
            before = getattr(connection, "tenant", None)
            User.objects.count()
            connection.tenant = message  # type: ignore[attr-defined]
            self.send(before)

    async with client(Handler) as one, WebSocketClient(PATH) as two:
        for ws in (one, two, one):
            await ws.send("left behind")
            assert await ws.receive() is None


# --- what waits too long -------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "LONG_SECONDS", 0.02)


async def test_sync_work_that_holds_up_the_connections_own_hooks_is_named(
    short: None, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()

    class Handler(WebSocketHandler):
        async def on_open(self) -> None:
            self.start_task("reader", self.reading)

        async def reading(self) -> None:
            await sync_to_async(self.read_without_end)()

        def read_without_end(self) -> None:
            go_on.wait(20)

        def on_message(self, message: Any) -> None:
            self.send(message)

    async with client(Handler) as ws:
        await ws.send(1)
        await until(lambda: "further sync work" in caplog.text)
        go_on.set()
        assert await ws.receive() == 1
    [line] = [message for message in caplog.messages if "further sync work" in message]
    assert line.startswith("WebSocket /ws/: ")
    assert "Handler.read_without_end has run for 0.02 s or longer" in line
    assert "waits for it: 1." in line


async def test_short_work_that_others_wait_for_is_not_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sync, "LONG_SECONDS", 1.0)

    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            await asyncio.gather(*(sync_to_async(int)("1") for _ in range(50)))
            await asyncio.sleep(3 * sync.LONG_SECONDS)  # past the time of the look
            await self.send("done")

    async with client(Handler) as ws:
        await ws.send(1)
        assert await ws.receive() == "done"
    assert caplog.messages == []


async def test_waiting_long_for_a_free_thread_is_told(
    short: None, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.WS_SYNC_THREADS = 1
    go_on, busy = threading.Event(), threading.Event()

    class Handler(WebSocketHandler):
        def on_message(self, message: Any) -> None:
            if message == "wait":
                busy.set()
                go_on.wait(20)
            self.send(message)

    async with client(Handler) as one, WebSocketClient(PATH) as two:
        await one.send("wait")
        await asyncio.to_thread(busy.wait, 20)
        await two.send("next")
        await until(lambda: waiting_in_the_pool())
        await asyncio.to_thread(time.sleep, 2 * sync.LONG_SECONDS)  # that long it has waited now
        go_on.set()
        assert await two.receive() == "next"
    [line] = [message for message in caplog.messages if "free thread" in message]
    assert "all 1 of WS_SYNC_THREADS were busy" in line


def waiting_in_the_pool() -> bool:
    return sync._pool is not None and not sync._pool._work_queue.empty()


def test_work_submitted_by_a_thread_is_done_in_order_and_watched_by_nobody() -> None:
    executor = InOrder("/ws/")
    go_on = threading.Event()
    first = executor.submit(go_on.wait, 20)
    others = [executor.submit(lambda number: number, number) for number in range(3)]
    go_on.set()
    assert first.result(20)
    assert [other.result(20) for other in others] == [0, 1, 2]


def test_a_pool_that_takes_nothing_more_fails_the_work_instead_of_losing_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = ThreadPoolExecutor(1)
    ended.shutdown()
    executor = InOrder()
    with monkeypatch.context() as patched:
        patched.setattr(sync, "_pool", ended)
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(int, "1").result(20)
    assert executor.submit(int, "1").result(20) == 1


def test_a_pool_that_ends_meanwhile_fails_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = ThreadPoolExecutor(1)
    monkeypatch.setattr(sync, "_pool", pool)
    executor = InOrder()
    go_on = threading.Event()
    first = executor.submit(go_on.wait, 20)
    waiting, cancelled = executor.submit(int, "1"), executor.submit(int, "2")
    assert cancelled.cancel()
    pool.shutdown(wait=False)
    go_on.set()
    assert first.result(20)
    with pytest.raises(RuntimeError, match="after shutdown"):
        waiting.result(20)


def test_connections_that_are_open_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections["default"].settings_dict, "CONN_MAX_AGE", 60)
    executor = InOrder()

    def wrapper() -> Any:
        connection.settings_dict["CONN_MAX_AGE"] = 60
        connection.ensure_connection()
        return connections["default"]

    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(sync, "_pool", pool)
        first, second = (executor.submit(wrapper).result(20) for _ in range(2))
        assert first is second
        pool.submit(connections.close_all).result(20)


def test_without_its_handler_no_unit_runs() -> None:
    """It would run as anybody, or as the tenant before."""

    class Handler:
        def unit_of_work(self) -> Any: ...

    handler = Handler()
    around = WeakMethod(handler.unit_of_work)
    assert InOrder(around=around).submit(int, "1").result(20) == 1
    del handler
    with pytest.raises(RuntimeError, match="the connection has ended, and its handler's unit"):
        InOrder(around=around).submit(int, "1").result(20)
