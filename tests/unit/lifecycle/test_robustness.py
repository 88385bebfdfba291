"""Lives that end badly: whatever hooks, middleware, servers and clients do, all of it ends."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from pytest_django import Settings

from django_ws import Reject, WebSocketHandler
from django_ws.exceptions import StateError
from django_ws.testing import WebSocketClient
from tests.support.asgi_peer import PATH, SECONDS, Peer, handlers, route, turns, until

Call = Callable[[WebSocketHandler], Awaitable[None]]


class Noting(WebSocketHandler):
    """Notes each run of ``on_close``."""

    ends: list[int | None]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.ends = []

    async def on_close(self) -> None:
        self.ends.append(self.close_code)


async def forever() -> None:
    await asyncio.Event().wait()


async def nothing() -> None:
    """What a ``sleep_loop`` calls."""


async def with_clean_up(log: list[str]) -> None:
    """A task whose end takes a while."""
    try:
        await forever()
    finally:
        await turns()
        log.append("cleaned up")


# --- on_close and the threads -----------------------------------------------------------------


class Holding(WebSocketHandler):
    """``on_message`` holds a thread until the test lets go of it."""

    began: threading.Event
    released: threading.Event
    closed_handlers: list[WebSocketHandler]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.began, cls.released, cls.closed_handlers = threading.Event(), threading.Event(), []

    def on_message(self, message: Any) -> None:
        self.began.set()
        self.released.wait(SECONDS)

    def on_close(self) -> None:
        self.closed_handlers.append(self)


async def test_a_sync_on_close_runs_once_after_a_sync_hook_that_outlasts_ws_close_timeout(
    settings: Settings,
) -> None:
    settings.WS_CLOSE_TIMEOUT = 0.02

    class Handler(Holding):
        pass

    async with Peer(Handler) as peer:
        handler = peer.handler
        peer.say("null")
        await until(Handler.began.is_set)
        handler.close()
        await peer.ended()
        assert Handler.closed_handlers == []
        Handler.released.set()
        await until(lambda: Handler.closed_handlers)
        await turns()
        assert Handler.closed_handlers == [handler]


async def test_a_sync_on_close_runs_once_when_all_threads_are_busy(settings: Settings) -> None:
    settings.WS_CLOSE_TIMEOUT = 0.02
    settings.WS_SYNC_THREADS = 1

    class Handler(Holding):
        pass

    with route(Handler):
        async with WebSocketClient(PATH, timeout=SECONDS) as busy:
            await busy.send(None)
            await until(Handler.began.is_set)
            async with WebSocketClient(PATH, timeout=SECONDS):
                closing = handlers[1]
            assert Handler.closed_handlers == []
            Handler.released.set()
            await until(lambda: Handler.closed_handlers)
            await turns()
            assert Handler.closed_handlers == [closing]


# --- tasks of a connection that never opens ---------------------------------------------------


started: list[asyncio.Task[Any]] = []  # what ``starting`` has started
log: list[str] = []


def starting(func: Call) -> Call:
    """A middleware with background tasks."""

    async def middleware(ws: WebSocketHandler) -> None:
        started[:] = [
            ws.start_task("clean", with_clean_up, args=(log,)),
            ws.start_task("beat", ws.sleep_loop, args=(nothing, 0.001)),
        ]
        log.clear()
        await turns()
        await func(ws)

    return middleware


class Starting(WebSocketHandler):
    """``on_connect`` with background tasks."""

    async def on_connect(self) -> None:
        await starting(self.go_on)(self)

    async def go_on(self, ws: WebSocketHandler) -> None:
        await forever()


class Waiting(WebSocketHandler):
    async def on_connect(self) -> None:
        await forever()


def assert_all_ended(peer: Peer) -> None:
    assert log == ["cleaned up"]
    assert [task.done() for task in started] == [True, True]
    assert (peer.handler.closed, peer.handler.tasks) == (True, {})


@pytest.mark.parametrize(
    ("handler_class", "middleware"),
    [(Starting, []), (Waiting, [f"{__name__}.starting"])],
    ids=["on_connect", "middleware"],
)
async def test_tasks_end_when_the_server_cancels_the_handshake(
    handler_class: type[WebSocketHandler], middleware: list[str]
) -> None:
    async with Peer(handler_class, opens=False, middleware=middleware) as peer:
        await until(lambda: handlers and len(peer.handler.tasks) == 2)
        await turns()
        outside = asyncio.create_task(peer.handler.sleep_loop(nothing, 0.001))
        await turns()
        peer.task.cancel()
        await asyncio.wait([peer.task], timeout=SECONDS)
        assert peer.task.cancelled()
        assert_all_ended(peer)
        await asyncio.wait_for(outside, SECONDS)


class Rejecting(Starting):
    async def go_on(self, ws: WebSocketHandler) -> None:
        raise Reject(403)


class Refusing(WebSocketHandler):
    async def on_connect(self) -> None:
        await self.reject(403)


@pytest.mark.parametrize(
    ("handler_class", "middleware"),
    [(Rejecting, []), (Refusing, [f"{__name__}.starting"])],
    ids=["on_connect", "middleware"],
)
async def test_tasks_have_ended_when_the_application_returns_after_a_rejection(
    handler_class: type[WebSocketHandler], middleware: list[str]
) -> None:
    async with Peer(handler_class, opens=False, middleware=middleware) as peer:
        await peer.ended()
        assert_all_ended(peer)


async def asgi_application(scope: Any, receive: Any, send: Any) -> None:
    """Leaves when the client does."""
    await receive()
    await send({"type": "websocket.accept"})
    await receive()


AS_ROUTE: Any = asgi_application


async def test_tasks_of_middleware_end_with_an_asgi_application() -> None:
    async with Peer(AS_ROUTE, middleware=[f"{__name__}.starting"]) as peer:
        outside = asyncio.create_task(peer.handler.sleep_loop(nothing, 0.001))
        assert not any(task.done() for task in started)
        peer.leave()
        await peer.ended()
        assert_all_ended(peer)
        await asyncio.wait_for(outside, SECONDS)


async def test_send_on_a_route_of_an_asgi_application_is_a_state_error() -> None:
    async with Peer(AS_ROUTE) as peer:
        with pytest.raises(StateError, match="ASGI application"):
            peer.handler.send(1)
        assert [event["type"] for event in peer.sent] == ["websocket.accept"]


# --- cancellations ----------------------------------------------------------------------------


async def test_a_handler_whose_answer_was_being_sent_when_the_server_cancelled_is_freed() -> None:
    answering = asyncio.Event()

    class Handler(WebSocketHandler):
        async def on_connect(self) -> None:
            raise Reject(403)

    async with Peer(Handler, opens=False) as peer:
        peer.block()
        peer.on_send = lambda event: answering.set()
        await asyncio.wait_for(answering.wait(), SECONDS)
        await turns()
        handler = weakref.ref(peer.handler)
        peer.task.cancel()
        await asyncio.wait([peer.task], timeout=SECONDS)
        assert peer.task.cancelled()
    del peer
    gc.collect()
    assert handler() is None


cancelled: list[int] = []  # the cancellations that ``Swallowing`` has seen


class Swallowing(WebSocketHandler):
    """``on_connect`` waits, and raises only the last of two cancellations, or none."""

    swallows = 2

    async def on_connect(self) -> None:
        cancelled.clear()
        while len(cancelled) < 2:
            try:
                await forever()
            except asyncio.CancelledError:
                cancelled.append(1)
                if len(cancelled) > self.swallows:
                    raise


class SwallowingOne(Swallowing):
    swallows = 1


def as_middleware(func: Call) -> Call:
    """What the handler's ``on_connect`` would do, around it."""

    async def middleware(ws: Any) -> None:
        await ws.on_connect()
        await func(ws)

    return middleware


@pytest.mark.parametrize("handler_class", [Swallowing, SwallowingOne])
@pytest.mark.parametrize("middleware", [[], [f"{__name__}.as_middleware"]])
async def test_who_swallows_our_cancellations_does_not_make_the_application_raise(
    handler_class: type[WebSocketHandler], middleware: list[str], settings: Settings
) -> None:
    settings.WS_CONNECT_TIMEOUT = settings.WS_CLOSE_TIMEOUT = 0.02
    answer: dict[str, Any] = {"websocket.http.response": {}}
    async with Peer(handler_class, opens=False, extensions=answer, middleware=middleware) as peer:
        await peer.ended()
        assert peer.sent[0]["status"] == 503
        assert len(cancelled) == 2


def limited(func: Call) -> Call:
    async def middleware(ws: WebSocketHandler) -> None:
        await asyncio.wait_for(func(ws), SECONDS)  # in a task of its own, on Python 3.11

    return middleware


def in_a_task(func: Call) -> Call:
    async def middleware(ws: WebSocketHandler) -> None:
        await asyncio.ensure_future(func(ws))

    return middleware


@pytest.mark.parametrize("name", ["limited", "in_a_task"])
@pytest.mark.parametrize("in_hook", [False, True], ids=["idle", "in a hook"])
async def test_close_ends_a_connection_that_a_middleware_runs_in_another_task(
    name: str, in_hook: bool, settings: Settings
) -> None:
    settings.WS_CLOSE_TIMEOUT = 0.02
    hooks: list[str] = []

    class Handler(Noting):
        async def on_message(self, message: Any) -> None:
            hooks.append("began")
            try:
                await forever()
            finally:
                hooks.append("ended")

    async with Peer(Handler, middleware=[f"{__name__}.{name}"]) as peer:
        if in_hook:
            peer.say("null")
            await until(lambda: hooks)
        await turns()
        await peer.handler.close(4001)
        await peer.ended()
        assert peer.closes == [(4001, "")]
        assert Handler.ends == [4001]
        assert hooks == (["began", "ended"] if in_hook else [])


# --- messages that had arrived ----------------------------------------------------------------


async def test_after_an_exception_what_had_arrived_is_not_handled_though_the_client_has_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handled: list[Any] = []

    class Handler(Noting):
        async def on_message(self, message: Any) -> None:
            handled.append(message)
            await until(lambda: self.closed)
            raise KeyError(message)

    async with Peer(Handler) as peer:
        peer.say("0", "1", "2")
        peer.leave(code=1001)
        await peer.ended()
    assert handled == [0]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert Handler.ends == [1001]


# --- the test client --------------------------------------------------------------------------


async def test_a_test_client_whose_handshake_times_out_leaves_no_task_behind() -> None:
    with route(Waiting):
        with pytest.raises(TimeoutError, match="no answer to the handshake"):
            async with WebSocketClient(PATH, timeout=0.01):
                pass
        assert asyncio.all_tasks() == {asyncio.current_task()}


def test_a_sync_test_client_whose_handshake_times_out_leaves_no_thread_behind() -> None:
    before = set(threading.enumerate())
    with route(Waiting):
        with (
            pytest.raises(TimeoutError, match="no answer to the handshake"),
            WebSocketClient(PATH, timeout=0.01),
        ):
            pass
        assert set(threading.enumerate()) <= before


async def test_a_cancelled_test_client_leaves_no_task_behind() -> None:
    async def enter() -> None:
        async with WebSocketClient(PATH, timeout=SECONDS):
            pass

    with route(Waiting):
        entering = asyncio.create_task(enter())
        await until(lambda: handlers)
        entering.cancel()
        with suppress(asyncio.CancelledError):
            await entering
        assert asyncio.all_tasks() == {asyncio.current_task()}
