"""Bounded threads for sync hooks and the ORM, on a real database on disk."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any, ClassVar

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import User
from django.db import connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.backends.sqlite3.base import DatabaseWrapper
from django.db.utils import DatabaseError
from pytest_django import Settings

from django_ws import WebSocketHandler
from django_ws.testing import WebSocketClient
from django_ws.threads import pool
from tests.support.routes import path

SECONDS = 5.0  # after which a wait between threads has failed

pytestmark = pytest.mark.django_db(transaction=True)


class Opened:
    """The database connections that were opened, and in which threads."""

    def __init__(self) -> None:
        self.wrappers: list[BaseDatabaseWrapper] = []
        self.threads: list[str] = []
        self.open = 0
        self.most = 0


class Meeting:
    """What the hooks of one test share."""

    barrier: ClassVar[threading.Barrier]
    started: ClassVar[threading.Semaphore]
    go_on: ClassVar[threading.Event]
    threads: ClassVar[set[str]]
    steps: ClassVar[list[Any]]


@pytest.fixture(autouse=True)
def meeting(settings: Settings) -> None:
    settings.ROOT_WS_URLCONF = __name__
    settings.WS_MIDDLEWARE = []
    Meeting.started = threading.Semaphore(0)
    Meeting.go_on = threading.Event()
    Meeting.threads = set()
    Meeting.steps = []


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """Counts connections as they are opened and closed; at the end none is left open."""
    seen = Opened()
    lock = threading.Lock()
    close = DatabaseWrapper._close  # type: ignore[attr-defined]

    def note_opened(*, connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
        with lock:
            seen.wrappers.append(connection)
            seen.threads.append(threading.current_thread().name)
            seen.open += 1
            seen.most = max(seen.most, seen.open)

    def note_closed(wrapper: BaseDatabaseWrapper) -> None:
        if wrapper.connection is not None:
            with lock:
                seen.open -= 1
        close(wrapper)

    connection_created.connect(note_opened)
    monkeypatch.setattr(DatabaseWrapper, "_close", note_closed)
    yield seen
    connection_created.disconnect(note_opened)
    for wrapper in seen.wrappers:
        wrapper.inc_thread_sharing()
        wrapper.close()
        wrapper.dec_thread_sharing()


def keep_connections(monkeypatch: pytest.MonkeyPatch, seconds: int, **more: Any) -> None:
    for name, value in {"CONN_MAX_AGE": seconds, **more}.items():
        monkeypatch.setitem(connections["default"].settings_dict, name, value)


class CountHandler(WebSocketHandler):
    """Counts the users, in a sync hook."""

    def on_message(self, message: Any) -> None:
        Meeting.threads.add(threading.current_thread().name)
        self.send(User.objects.count())


class MeetingHandler(WebSocketHandler):
    """A hook that ends only when as many run at once as the barrier has places."""

    def on_message(self, message: Any) -> None:
        Meeting.threads.add(threading.current_thread().name)
        User.objects.count()
        Meeting.barrier.wait(SECONDS)
        self.send("met")


class SlowQueryHandler(WebSocketHandler):
    """A query that the database works on until ``go_on`` is set."""

    def on_message(self, message: Any) -> None:
        connection.ensure_connection()
        connection.connection.create_function("linger", 0, self.linger)
        with connection.cursor() as cursor:
            cursor.execute("SELECT linger()")
        self.send("done")

    def linger(self) -> int:
        Meeting.started.release()
        return int(Meeting.go_on.wait(SECONDS))


class OrderHandler(WebSocketHandler):
    """Starts many calls at once."""

    async def on_message(self, message: int) -> None:
        await asyncio.gather(*(sync_to_async(self.note)(number) for number in range(message)))
        await self.send("done")

    def note(self, number: int) -> None:
        Meeting.steps.append(("in", number))
        time.sleep(0.001)
        Meeting.steps.append(("out", number))


class OneThreadHandler(WebSocketHandler):
    """Blocks in ``send``, goes to the loop and comes back: always in one thread."""

    def on_message(self, message: Any) -> None:
        threads = [threading.current_thread().name]
        self.send("on the way")
        threads.append(threading.current_thread().name)
        threads.append(async_to_sync(self.there_and_back)())
        threads.append(threading.current_thread().name)
        self.send(threads)

    async def there_and_back(self) -> str:
        return await sync_to_async(lambda: threading.current_thread().name)()


class BrokenHandler(WebSocketHandler):
    """Can lose its database connection, as when the database restarts."""

    def on_message(self, message: Any) -> None:
        if message == "break":
            connection.ensure_connection()
            connection.connection.close()
            self.send("broken")
            return
        try:
            self.send(User.objects.count())
        except DatabaseError:
            self.send("error")


class QueriesHandler(WebSocketHandler):
    def on_message(self, message: Any) -> None:
        before = len(connection.queries)
        User.objects.count()
        self.send([before, len(connection.queries)])


class AsyncHandler(WebSocketHandler):
    """An async hook that uses both ways to blocking code."""

    async def on_message(self, message: Any) -> None:
        thread = await sync_to_async(lambda: threading.current_thread().name)()
        await self.send([thread, await User.objects.acount()])


class CancelledHandler(WebSocketHandler):
    """A call that waits its turn behind a slow one, and is cancelled meanwhile."""

    async def on_message(self, message: Any) -> None:
        slow = asyncio.ensure_future(sync_to_async(Meeting.go_on.wait)(SECONDS))
        await asyncio.sleep(0)
        waiting = asyncio.ensure_future(sync_to_async(Meeting.steps.append)("never"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        Meeting.go_on.set()
        await slow
        await sync_to_async(Meeting.steps.append)("next")
        await self.send([slow.result(), waiting.cancelled(), Meeting.steps])


class RaisingHandler(WebSocketHandler):
    async def on_message(self, message: Any) -> None:
        try:
            await sync_to_async(self.fail)()
        except LookupError as error:
            await self.send(str(error))

    def fail(self) -> None:
        raise LookupError("from the thread")


urlpatterns = [
    path("count/", CountHandler),
    path("meeting/", MeetingHandler),
    path("slow/", SlowQueryHandler),
    path("order/", OrderHandler),
    path("one-thread/", OneThreadHandler),
    path("broken/", BrokenHandler),
    path("queries/", QueriesHandler),
    path("async/", AsyncHandler),
    path("cancelled/", CancelledHandler),
    path("raising/", RaisingHandler),
]


async def clients(stack: AsyncExitStack, url: str, number: int) -> list[WebSocketClient]:
    return [
        await stack.enter_async_context(WebSocketClient(url, timeout=SECONDS))
        for _ in range(number)
    ]


async def ask(ws: WebSocketClient, message: Any = "?") -> Any:
    await ws.send(message)
    return await ws.receive()


# Threads


async def test_slow_hooks_of_many_sockets_run_side_by_side(settings: Settings) -> None:
    settings.WS_SYNC_THREADS = 4
    Meeting.barrier = threading.Barrier(4)
    async with AsyncExitStack() as stack:
        sockets = await clients(stack, "/meeting/", 12)
        answers = await asyncio.gather(*(ask(ws) for ws in sockets))
    assert answers == ["met"] * 12


async def test_no_more_threads_are_used_than_the_setting_allows(settings: Settings) -> None:
    settings.WS_SYNC_THREADS = 3
    Meeting.barrier = threading.Barrier(3)
    async with AsyncExitStack() as stack:
        sockets = await clients(stack, "/meeting/", 30)
        await asyncio.gather(*(ask(ws) for ws in sockets))
    assert len(Meeting.threads) == 3


@pytest.mark.parametrize("max_age", [0, 60])
async def test_there_are_no_more_database_connections_than_threads(
    settings: Settings, opened: Opened, monkeypatch: pytest.MonkeyPatch, max_age: int
) -> None:
    settings.WS_SYNC_THREADS = 3
    keep_connections(monkeypatch, max_age)
    Meeting.barrier = threading.Barrier(3)
    async with AsyncExitStack() as stack:
        sockets = await clients(stack, "/meeting/", 30)
        await asyncio.gather(*(ask(ws) for ws in sockets))
    assert opened.most == 3


@pytest.mark.parametrize("threads", [2, 8])
async def test_slow_query_does_not_stop_other_connections(settings: Settings, threads: int) -> None:
    settings.WS_SYNC_THREADS = threads
    async with (
        WebSocketClient("/slow/", timeout=SECONDS) as slow,
        WebSocketClient("/count/", timeout=SECONDS) as other,
    ):
        await slow.send("begin")
        assert await asyncio.to_thread(Meeting.started.acquire, timeout=SECONDS)
        assert [await ask(other) for _ in range(10)] == [0] * 10
        Meeting.go_on.set()
        assert await slow.receive() == "done"


async def test_slow_query_does_not_stop_the_event_loop_with_one_thread(settings: Settings) -> None:
    settings.WS_SYNC_THREADS = 1
    async with (
        WebSocketClient("/slow/", timeout=SECONDS) as slow,
        WebSocketClient("/count/", timeout=SECONDS) as other,
    ):
        await slow.send("begin")
        assert await asyncio.to_thread(Meeting.started.acquire, timeout=SECONDS)
        await other.send("waits its turn")
        await other.receive_nothing()
        Meeting.go_on.set()
        assert (await slow.receive(), await other.receive()) == ("done", 0)


async def test_calls_of_one_connection_run_one_at_a_time_and_in_order(settings: Settings) -> None:
    settings.WS_SYNC_THREADS = 8
    async with WebSocketClient("/order/", timeout=SECONDS) as ws:
        assert await ask(ws, 20) == "done"
    assert Meeting.steps == [(way, number) for number in range(20) for way in ("in", "out")]


async def test_sync_hook_runs_in_one_thread_from_beginning_to_end(settings: Settings) -> None:
    settings.WS_SYNC_THREADS = 8
    async with WebSocketClient("/one-thread/", timeout=SECONDS) as ws:
        for _ in range(5):
            assert await ask(ws) == "on the way"
            assert len(set(await ws.receive())) == 1


async def test_async_hooks_use_the_same_threads(settings: Settings, opened: Opened) -> None:
    settings.WS_SYNC_THREADS = 2
    async with WebSocketClient("/async/", timeout=SECONDS) as ws:
        thread, number = await ask(ws)
    assert number == 0
    assert thread.startswith("django_ws")
    assert all(name.startswith("django_ws") for name in opened.threads)


async def test_call_that_is_cancelled_while_it_waits_never_runs(settings: Settings) -> None:
    settings.WS_SYNC_THREADS = 4
    async with WebSocketClient("/cancelled/", timeout=SECONDS) as ws:
        assert await ask(ws) == [True, True, ["next"]]


def test_call_that_is_cancelled_while_it_waits_never_runs_in_a_sync_test_either() -> None:
    with WebSocketClient("/cancelled/", timeout=SECONDS) as ws:
        ws.send("?")
        assert ws.receive() == [True, True, ["next"]]


async def test_exception_of_a_sync_function_reaches_the_caller() -> None:
    async with WebSocketClient("/raising/", timeout=SECONDS) as ws:
        assert [await ask(ws), await ask(ws)] == ["from the thread"] * 2


async def test_change_of_the_number_of_threads_counts_at_once(settings: Settings) -> None:
    settings.WS_SYNC_THREADS = 1
    async with AsyncExitStack() as stack:
        sockets = await clients(stack, "/meeting/", 2)
        Meeting.barrier = threading.Barrier(1)
        await asyncio.gather(*(ask(ws) for ws in sockets))
        assert len(Meeting.threads) == 1
        settings.WS_SYNC_THREADS = 2
        Meeting.barrier = threading.Barrier(2)
        assert await asyncio.gather(*(ask(ws) for ws in sockets)) == ["met", "met"]


async def test_connection_without_sync_work_starts_no_thread(settings: Settings) -> None:
    settings.WS_SYNC_THREADS = 5  # a new pool
    settings.ROOT_WS_URLCONF = "tests.ws_urls"
    before = set(threading.enumerate())
    async with WebSocketClient("/echo/") as ws:
        await ws.send("hi")
        assert await ws.receive() == "hi"
        new = set(threading.enumerate()) - before
    assert not any(thread.name.startswith("django_ws") for thread in new)


# Database connections


async def test_connection_is_closed_after_each_call_with_conn_max_age_0(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_connections(monkeypatch, 0)
    async with WebSocketClient("/count/", timeout=SECONDS) as ws:
        assert [await ask(ws) for _ in range(5)] == [0] * 5
    assert len(opened.wrappers) == 5
    assert opened.open == 0


async def test_connection_is_used_again_with_conn_max_age(
    settings: Settings, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.WS_SYNC_THREADS = 1
    keep_connections(monkeypatch, 60)
    async with WebSocketClient("/count/", timeout=SECONDS) as ws:
        assert [await ask(ws) for _ in range(5)] == [0] * 5
    assert len(opened.wrappers) == 1


async def test_connection_past_its_age_is_replaced(
    settings: Settings, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.WS_SYNC_THREADS = 1
    keep_connections(monkeypatch, 60)
    async with WebSocketClient("/count/", timeout=SECONDS) as ws:
        await ask(ws)
        [wrapper] = opened.wrappers
        monkeypatch.setattr(wrapper, "close_at", time.monotonic())
        assert await ask(ws) == 0
    assert len(opened.wrappers) == 2


def can_answer(wrapper: BaseDatabaseWrapper) -> bool:
    """What every backend but SQLite's says: whether the database still answers."""
    try:
        wrapper.connection.execute("SELECT 1")
    except Exception:
        return False
    return True


@pytest.mark.parametrize("health_checks", [True, False])
async def test_connection_closed_underneath_is_replaced(
    settings: Settings, opened: Opened, monkeypatch: pytest.MonkeyPatch, health_checks: bool
) -> None:
    settings.WS_SYNC_THREADS = 1
    keep_connections(monkeypatch, 60, CONN_HEALTH_CHECKS=health_checks)
    if health_checks:
        monkeypatch.setattr(DatabaseWrapper, "is_usable", can_answer)  # SQLite's is always true
    async with WebSocketClient("/broken/", timeout=SECONDS) as ws:
        assert await ask(ws, "break") == "broken"
        # As on a page: only CONN_HEALTH_CHECKS finds out before the first query has failed.
        assert await ask(ws) == (0 if health_checks else "error")
        assert await ask(ws) == 0


def test_nothing_is_closed_inside_the_transaction_of_a_test(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_connections(monkeypatch, 0)
    with transaction.atomic():
        User.objects.create(username="alice")  # nobody else can see her yet
        before = connection.connection
        with WebSocketClient("/count/") as ws:
            for _ in range(3):
                ws.send("?")
                assert ws.receive() == 1
        with WebSocketClient("/async/") as ws:
            ws.send("?")
            assert ws.receive()[1] == 1
        assert connection.connection is before
        transaction.set_rollback(True)


async def test_log_of_queries_does_not_grow_with_debug(settings: Settings) -> None:
    settings.DEBUG = True
    settings.WS_SYNC_THREADS = 1
    async with WebSocketClient("/queries/", timeout=SECONDS) as ws:
        assert [await ask(ws) for _ in range(20)] == [[0, 1]] * 20


# Forks


# Threads that cannot be had


@pytest.fixture
def own_pool(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Iterator[None]:
    """One thread, for this test alone."""
    settings.WS_SYNC_THREADS = 1
    monkeypatch.setattr(pool, "_pool", None)
    yield
    if pool._pool is not None:
        pool._pool.shutdown()


@pytest.mark.usefixtures("own_pool")
class TestRefusals:
    def test_a_call_that_is_refused_fails_and_the_next_one_runs(self) -> None:
        calls = pool.InOrder()
        assert calls.submit(int, "1").result(SECONDS) == 1
        assert pool._pool is not None
        pool._pool.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            calls.submit(int, "2").result(SECONDS)
        pool._pool = None
        assert calls.submit(int, "3").result(SECONDS) == 3

    def test_what_waits_behind_a_call_fails_with_it(self) -> None:
        calls = pool.InOrder()
        running = calls.submit(Meeting.go_on.wait, SECONDS)
        waiting = [calls.submit(int, "1") for _ in range(3)]
        assert waiting[1].cancel()
        assert pool._pool is not None
        pool._pool.shutdown(wait=False)
        Meeting.go_on.set()
        assert running.result(SECONDS)
        for each in (waiting[0], waiting[2]):
            with pytest.raises(RuntimeError, match="after shutdown"):
                each.result(SECONDS)
        pool._pool = None
        assert calls.submit(int, "2").result(SECONDS) == 2

    def test_a_thread_that_the_system_refuses_leaves_nothing_that_overlaps(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The executor has taken the call by then, and runs it as soon as there is a thread."""
        calls = pool.InOrder()
        real = threading.Thread.start
        refusals = iter([True])

        def start(thread: threading.Thread) -> None:
            if next(refusals, False):
                raise RuntimeError("can't start new thread")
            real(thread)

        monkeypatch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            calls.submit(Meeting.steps.append, "refused").result(SECONDS)
        assert calls.submit(int, "1").result(SECONDS) == 1
        assert pool._pool is not None
        pool._pool.shutdown()
        assert Meeting.steps == []

    def test_a_setting_that_changes_meanwhile_refuses_nothing(self, settings: Settings) -> None:
        ended = threading.Event()

        def change() -> None:
            while not ended.is_set():
                pool._resize(setting="WS_SYNC_THREADS")

        changing = threading.Thread(target=change)
        changing.start()
        try:
            calls = [pool.InOrder() for _ in range(3)]
            results = [calls[n % 3].submit(int, f"{n}") for n in range(300)]
            assert [each.result(SECONDS) for each in results] == list(range(300))
        finally:
            ended.set()
            changing.join()
