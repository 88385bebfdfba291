"""Named background tasks, the sleep loop and the ping."""

import asyncio
import datetime as dt
import gc
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

import pytest
from django.core.exceptions import PermissionDenied
from pytest_django import Settings

from django_ws import (
    TASK_DUPLICATE_STARTED,
    TASK_WS_CLOSED,
    ConnectionClosed,
    WebSocketHandler,
)
from django_ws.codecs import BytesCodec, Codec, JSONCodec, MessagePackCodec, TextCodec
from django_ws.lifecycle.tasks import sleep_loop
from tests.support.asgi_peer import Peer, client, turns, until
from tests.support.handlers import Quiet


class Telling(WebSocketHandler):
    """Tells its task errors."""

    errors: list[BaseException]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.errors = []

    def on_task_error(self, error: BaseException) -> None:
        self.errors.append(error)


async def forever() -> None:
    await asyncio.Event().wait()


async def at_once() -> None: ...


async def fails() -> None:
    raise LookupError("the task failed")


# --- start_task -------------------------------------------------------------------------------


def test_the_messages_of_cancellations() -> None:
    assert (TASK_DUPLICATE_STARTED, TASK_WS_CLOSED) == (
        "task-duplicate-started",
        "task-websocket-closed",
    )


async def test_a_task_runs_with_args_and_kwargs() -> None:
    seen: list[Any] = []

    async def task(*args: Any, **kwargs: Any) -> None:
        seen.append((args, kwargs))

    async with Peer(Quiet) as peer:
        peer.handler.start_task("task", task, args=(1, 2), kwargs={"a": 3})
        await until(lambda: seen)
        assert seen == [((1, 2), {"a": 3})]


async def test_start_task_gives_a_task_of_the_ids_name() -> None:
    async with Peer(Quiet) as peer:
        task = peer.handler.start_task("prices", forever)
        assert isinstance(task, asyncio.Task)
        assert task.get_name() == "prices"


async def test_awaiting_start_task_gives_the_task_and_does_not_wait_for_its_end() -> None:
    async with Peer(Quiet) as peer:
        task = await peer.handler.start_task("task", forever)
        assert task is peer.handler.tasks["task"]
        assert not task.done()


async def test_a_coroutine_object_is_taken_too() -> None:
    seen: list[int] = []

    async def task(number: int) -> None:
        seen.append(number)

    async with Peer(Quiet) as peer:
        peer.handler.start_task("task", task(1))
        await until(lambda: seen == [1])


async def test_args_with_a_coroutine_object_are_a_type_error() -> None:
    async with Peer(Quiet) as peer:
        with pytest.raises(TypeError, match="args and kwargs"):
            peer.handler.start_task("task", forever(), args=(1,))


@pytest.mark.parametrize("wrong", [lambda: None, 5, None], ids=["sync function", "5", "None"])
async def test_what_is_no_coroutine_function_is_a_type_error_with_the_cure(wrong: Any) -> None:
    async with Peer(Quiet) as peer:
        with pytest.raises(TypeError, match=r"'task'.*async def"):
            peer.handler.start_task("task", wrong)
        assert peer.handler.tasks == {}


async def test_a_wrong_start_leaves_the_running_namesake_alone() -> None:
    async with Peer(Quiet) as peer:
        task = peer.handler.start_task("task", forever)
        with pytest.raises(TypeError):
            peer.handler.start_task("task", lambda: None)
        await turns()
        assert not task.done()


async def test_a_running_namesake_is_cancelled_with_task_duplicate_started() -> None:
    messages: list[Any] = []

    async def task() -> None:
        try:
            await forever()
        except asyncio.CancelledError as error:
            messages.append(error.args)
            raise

    async with Peer(Quiet) as peer:
        first = peer.handler.start_task("task", task)
        await turns()
        second = peer.handler.start_task("task", forever)
        await asyncio.wait([first])
        assert messages == [(TASK_DUPLICATE_STARTED,)]
        assert peer.handler.tasks == {"task": second}


async def test_finished_tasks_leave_tasks_by_themselves() -> None:
    async with Peer(Quiet) as peer:
        peer.handler.start_task("one", at_once)
        peer.handler.start_task("two", forever)
        await until(lambda: list(peer.handler.tasks) == ["two"])


async def test_tasks_is_a_copy() -> None:
    async with Peer(Quiet) as peer:
        peer.handler.start_task("task", forever)
        peer.handler.tasks.clear()
        assert list(peer.handler.tasks) == ["task"]


async def test_at_the_close_all_are_cancelled_with_task_ws_closed_before_on_close() -> None:
    order: list[Any] = []

    class Handler(WebSocketHandler):
        async def on_close(self) -> None:
            order.append("on_close")

    async def task() -> None:
        try:
            await forever()
        except asyncio.CancelledError as error:
            await asyncio.sleep(0)
            order.append(error.args)
            raise

    async with Peer(Handler) as peer:
        peer.handler.start_task("one", task)
        peer.handler.start_task("two", task)
        await turns()
        peer.leave()
        await peer.ended()
        assert order == [(TASK_WS_CLOSED,), (TASK_WS_CLOSED,), "on_close"]


async def test_a_cancelled_namesake_that_has_not_ended_yet_is_awaited_before_on_close() -> None:
    order: list[str] = []
    go_on = asyncio.Event()

    class Handler(WebSocketHandler):
        async def on_close(self) -> None:
            order.append("on_close")

    async def slow_to_end() -> None:
        try:
            await forever()
        finally:
            await go_on.wait()
            order.append("ended")

    async with Peer(Handler) as peer:
        peer.handler.start_task("task", slow_to_end)
        await turns()
        peer.handler.start_task("task", at_once)
        peer.leave()
        await turns()
        go_on.set()
        await peer.ended()
        assert order == ["ended", "on_close"]


async def test_a_task_that_is_cancelled_before_its_first_step_never_runs_and_never_warns(
    recwarn: pytest.WarningsRecorder,
) -> None:
    ran: list[int] = []

    async def task() -> None:
        ran.append(1)

    async with Peer(Quiet) as peer:
        first = peer.handler.start_task("task", task)
        second = peer.handler.start_task("task", forever)
        await asyncio.wait([first])
        assert not second.done()
    gc.collect()
    assert ran == []
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("coroutine", [lambda: forever, lambda: forever()])
async def test_starting_a_task_after_the_close_raises_connection_closed(
    coroutine: Callable[[], Any], recwarn: pytest.WarningsRecorder
) -> None:
    async with Peer(Quiet) as peer:
        await peer.handler.close()
        with pytest.raises(ConnectionClosed, match="'task'"):
            peer.handler.start_task("task", coroutine())
    gc.collect()
    assert list(recwarn) == []


async def test_start_task_in_on_close_raises_connection_closed_quietly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caught: list[Exception] = []

    class Handler(WebSocketHandler):
        async def on_open(self) -> None:
            self.start_task("task", forever)

        async def on_close(self) -> None:
            try:
                self.start_task("task", forever)
            except ConnectionClosed as error:
                caught.append(error)
                raise

    async with client(Handler):
        pass
    assert len(caught) == 1
    assert caplog.records == []


async def test_start_task_in_on_connect_starts_it_before_the_accept() -> None:
    started = asyncio.Event()

    class Handler(WebSocketHandler):
        async def on_connect(self) -> None:
            self.start_task("task", self.task)
            await started.wait()

        async def task(self) -> None:
            started.set()
            await forever()

    async with Peer(Handler) as peer:
        assert list(peer.handler.tasks) == ["task"]


async def test_a_task_of_a_refused_handshake_is_cancelled() -> None:
    started: list[Any] = []

    class Handler(WebSocketHandler):
        async def on_connect(self) -> None:
            started.append(self.start_task("task", forever))
            await self.reject(403)

    async with Peer(Handler, opens=False) as peer:
        await peer.ended()
        await asyncio.wait(started)
        assert started[0].cancelled()


async def test_start_task_in_a_sync_hook_gives_the_running_task() -> None:
    given: list[Any] = []

    class Handler(WebSocketHandler):
        def on_open(self) -> None:
            given.append(self.start_task("task", forever))

    async with Peer(Handler) as peer:
        await until(lambda: given)
        assert given == [peer.handler.tasks["task"]]


async def test_a_type_error_of_start_task_reaches_the_sync_hook() -> None:
    caught: list[Exception] = []

    class Handler(WebSocketHandler):
        def on_open(self) -> None:
            try:
                self.start_task("task", lambda: None)  # type: ignore[arg-type, return-value]
            except TypeError as error:
                caught.append(error)

    async with Peer(Handler):
        await until(lambda: caught)


# --- callbacks --------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [at_once, fails, forever], ids=["ends", "fails", "cancelled"])
async def test_the_callback_is_called_however_the_task_ended(function: Any) -> None:
    called: list[Any] = []
    async with Peer(Quiet) as peer:
        task = peer.handler.start_task("task", function, called.append)
        if function is forever:
            await turns()
            peer.handler.cancel_task("task")
        await until(lambda: called)
        assert called == [task]
        assert task.done()


async def test_the_callback_may_be_a_coroutine_function() -> None:
    called: list[Any] = []

    async def callback(task: asyncio.Task[Any]) -> None:
        await asyncio.sleep(0)
        called.append(task)

    async with Peer(Quiet) as peer:
        task = peer.handler.start_task("task", at_once, callback)
        await until(lambda: called == [task])


async def test_the_callback_runs_in_the_event_loop() -> None:
    loops: list[asyncio.AbstractEventLoop] = []
    async with Peer(Quiet) as peer:
        peer.handler.start_task(
            "task", at_once, lambda task: loops.append(asyncio.get_running_loop())
        )
        await until(lambda: loops)
        assert loops == [asyncio.get_running_loop()]


async def test_the_callback_at_the_close_runs_before_on_close() -> None:
    order: list[str] = []

    class Handler(WebSocketHandler):
        async def on_close(self) -> None:
            order.append("on_close")

    async with Peer(Handler) as peer:
        peer.handler.start_task("task", forever, lambda task: order.append("callback"))
        peer.leave()
        await peer.ended()
        assert order == ["callback", "on_close"]


async def failing_callback(task: object) -> None:
    raise LookupError("the callback failed")


def failing_sync_callback(task: object) -> None:
    raise LookupError("the callback failed")


@pytest.mark.parametrize("callback", [failing_callback, failing_sync_callback])
async def test_an_exception_in_a_callback_is_logged_and_the_connection_stays_open(
    callback: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with Peer(Quiet) as peer:
        peer.handler.start_task("task", at_once, callback)
        await until(lambda: caplog.messages)
        assert "exception in the callback of task 'task'" in caplog.messages[0]
        assert peer.handler.connected


# --- cancel_task ------------------------------------------------------------------------------


async def test_awaiting_cancel_task_waits_until_the_task_has_ended() -> None:
    ended: list[int] = []

    async def task() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0)
            ended.append(1)

    async with Peer(Quiet) as peer:
        peer.handler.start_task("task", task)
        await turns()
        await peer.handler.cancel_task("task")
        assert ended == [1]
        assert peer.handler.tasks == {}


async def test_cancel_task_need_not_be_awaited() -> None:
    async with Peer(Quiet) as peer:
        task = peer.handler.start_task("task", forever)
        await turns()
        peer.handler.cancel_task("task")
        await asyncio.wait([task])
        assert task.cancelled()


async def test_cancel_task_of_an_unknown_id_does_nothing() -> None:
    async with Peer(Quiet) as peer:
        await peer.handler.cancel_task("unknown")
        task = peer.handler.start_task("known", forever)
        await peer.handler.cancel_task("unknown")
        assert not task.done()


async def test_a_task_may_cancel_itself() -> None:
    reached: list[str] = []

    async def task(handler: WebSocketHandler) -> None:
        await handler.cancel_task("task")
        reached.append("after cancel_task")
        await asyncio.sleep(0)
        reached.append("after the next await")

    async with Peer(Quiet) as peer:
        started = peer.handler.start_task("task", task, args=(peer.handler,))
        await asyncio.wait([started])
        assert reached == ["after cancel_task"]


async def test_cancel_task_raises_nothing_of_a_task_that_fails_while_it_ends() -> None:
    class Handler(Telling):
        pass

    async def task() -> None:
        try:
            await forever()
        finally:
            raise LookupError("while ending")

    async with Peer(Handler) as peer:
        peer.handler.start_task("task", task)
        await turns()
        await peer.handler.cancel_task("task")
        await until(lambda: Handler.errors)


async def test_cancel_task_in_a_sync_hook_blocks_until_the_task_has_ended() -> None:
    done: list[bool] = []

    class Handler(WebSocketHandler):
        def on_open(self) -> None:
            task = self.start_task("task", forever)
            self.cancel_task("task")
            done.append(task.done())

    async with Peer(Handler):
        await until(lambda: done)
        assert done == [True]


# --- errors -----------------------------------------------------------------------------------


async def test_an_exception_in_a_task_reaches_on_task_error_and_leaves_the_connection_open() -> (
    None
):
    class Handler(Telling):
        pass

    async with Peer(Handler) as peer:
        peer.handler.start_task("task", fails)
        await until(lambda: Handler.errors)
        assert [str(error) for error in Handler.errors] == ["the task failed"]
        assert peer.handler.connected


async def test_an_exception_in_a_task_is_logged_once_with_the_tasks_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Handler(Telling):
        pass

    async with Peer(Handler) as peer:
        peer.handler.start_task("prices", fails)
        await until(lambda: Handler.errors)
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "exception in task 'prices'" in caplog.messages[0]


async def test_on_task_error_may_be_a_coroutine_function() -> None:
    errors: list[BaseException] = []

    class Handler(WebSocketHandler):
        async def on_task_error(self, error: BaseException) -> None:
            await asyncio.sleep(0)
            errors.append(error)

    async with Peer(Handler) as peer:
        peer.handler.start_task("task", fails)
        await until(lambda: errors)


async def test_on_task_error_runs_in_the_event_loop_as_a_plain_function() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    class Handler(WebSocketHandler):
        def on_task_error(self, error: BaseException) -> None:
            loops.append(asyncio.get_running_loop())

    async with Peer(Handler) as peer:
        peer.handler.start_task("task", fails)
        await until(lambda: loops)


async def test_without_on_task_error_the_exception_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Peer(Quiet) as peer:
        peer.handler.start_task("task", fails)
        await until(lambda: caplog.records)


async def test_an_exception_in_on_task_error_is_logged_and_the_connection_stays_open(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Handler(WebSocketHandler):
        def on_task_error(self, error: BaseException) -> None:
            raise ValueError("on_task_error failed")

    async with Peer(Handler) as peer:
        peer.handler.start_task("task", fails)
        await until(lambda: len(caplog.records) == 2)
        assert "exception in on_task_error" in caplog.messages[1]
        assert peer.handler.connected


async def test_on_task_error_may_refuse_as_other_hooks_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Handler(WebSocketHandler):
        def on_task_error(self, error: BaseException) -> None:
            raise PermissionDenied

    async with Peer(Handler) as peer:
        peer.handler.start_task("task", fails)
        await peer.ended()
        assert [code for code, _ in peer.closes] == [4403]
    assert caplog.messages[1:] == [
        "WebSocket /ws/ closed with 4403: PermissionDenied in on_task_error"
    ]
    assert not caplog.records[1].exc_info


@pytest.mark.parametrize("wanted", [False, True])
async def test_process_cancel_errors_says_whether_cancellations_reach_on_task_error(
    wanted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Handler(Telling):
        PROCESS_CANCEL_ERRORS = wanted

    async with Peer(Handler) as peer:
        peer.handler.start_task("task", forever)
        await turns()
        peer.handler.start_task("task", forever)
        await turns()
        peer.leave()
        await peer.ended()
        expected = [(TASK_DUPLICATE_STARTED,), (TASK_WS_CLOSED,)] if wanted else []
        assert [error.args for error in Handler.errors] == expected
        assert all(isinstance(error, asyncio.CancelledError) for error in Handler.errors)
        assert caplog.records == []


async def test_connection_closed_escaping_a_task_after_the_close_is_quiet(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Handler(Telling):
        async def on_open(self) -> None:
            self.start_task("task", self.talk)

        async def talk(self) -> None:
            await self.close()
            await self.send(1)

    async with client(Handler) as ws:
        await ws.wait_closed()
    assert Handler.errors == []
    assert caplog.records == []


async def test_a_task_that_swallows_its_cancellation_is_left_behind_and_named(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.WS_CLOSE_TIMEOUT = 0.02
    closes: list[int] = []
    enough = asyncio.Event()

    class Handler(WebSocketHandler):
        async def on_close(self) -> None:
            closes.append(1)

    async def stubborn() -> None:
        while not enough.is_set():
            with suppress(asyncio.CancelledError):
                await enough.wait()

    async with Peer(Handler) as peer:
        task = peer.handler.start_task("stubborn", stubborn)
        await turns()
        peer.leave()
        await peer.ended()
        enough.set()
        await asyncio.wait([task])
    assert closes == [1]
    assert any("left behind: stubborn" in line for line in caplog.messages)


# --- sleep_loop -------------------------------------------------------------------------------


class Clock:
    """When a function was called, on the loop's clock."""

    def __init__(self, calls: int, takes: float = 0.0) -> None:
        self.times: list[float] = []
        self.takes = takes
        self.reached = asyncio.Event()
        self.running = 0
        self.overlapped = False
        self._calls = calls

    async def __call__(self, *args: Any, **kwargs: Any) -> None:
        self.times.append(asyncio.get_running_loop().time())
        self.overlapped |= self.running > 0
        self.running += 1
        if self.takes:
            await asyncio.sleep(self.takes)
        self.running -= 1
        if len(self.times) == self._calls:
            self.reached.set()


async def test_sleep_loop_calls_first_after_one_period() -> None:
    clock = Clock(1)
    async with Peer(Quiet) as peer:
        before = asyncio.get_running_loop().time()
        peer.handler.start_task("loop", peer.handler.sleep_loop, args=(clock, 0.02))
        await clock.reached.wait()
        assert clock.times[0] - before >= 0.02


class SlowTime:
    """Stands in for the event loop: time passes by the book, and every wait ends late."""

    def __init__(self, *late: float) -> None:
        self.now = 100.0
        self.late = list(late)
        self.closed = asyncio.get_running_loop().create_future()

    def get_running_loop(self) -> Self:
        return self

    def time(self) -> float:
        return self.now

    async def wait(self, futures: Any, timeout: float) -> None:
        assert [*futures] == [self.closed]
        self.now += timeout + self.late.pop(0)
        if not self.late:
            self.closed.set_result(None)


async def test_sleep_loop_keeps_to_a_fixed_grid_without_drift(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    time = SlowTime(0, 1, 0, 3, 9, 2, 0, 0)
    times: list[float] = []

    async def takes_two_seconds() -> None:
        times.append(time.now - 100)
        time.now += 2

    monkeypatch.setattr("django_ws.lifecycle.tasks.asyncio", time)
    await sleep_loop(takes_two_seconds, 5, (), {}, time.closed)
    # Due at 5, 10, 15, 20, 25 (nine late, and two until it was done: 30 and 35 had passed).
    assert times == [5, 11, 15, 23, 34, 42, 45]


async def test_sleep_loop_leaves_out_what_passes_during_a_call_and_never_overlaps() -> None:
    period, clock = 0.01, Clock(3, takes=0.025)
    async with Peer(Quiet) as peer:
        peer.handler.start_task("loop", peer.handler.sleep_loop, args=(clock, period))
        await clock.reached.wait()
    assert not clock.overlapped
    assert all(b - a > 2.4 * period for a, b in zip(clock.times, clock.times[1:], strict=False))


async def test_sleep_loop_passes_args_and_kwargs() -> None:
    seen: list[Any] = []

    async def call(*args: Any, **kwargs: Any) -> None:
        seen.append((args, kwargs))

    async with Peer(Quiet) as peer:
        peer.handler.start_task(
            "loop", peer.handler.sleep_loop, args=(call, 0.001, 1), kwargs={"a": 2}
        )
        await until(lambda: seen)
        assert seen[0] == ((1,), {"a": 2})


async def test_sleep_loop_ends_at_once_at_the_close_when_a_hook_awaits_it() -> None:
    reached: list[str] = []

    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            self.start_task("ending", self.end)
            await self.sleep_loop(at_once, 3600)
            reached.append("after the loop")

        async def end(self) -> None:
            await self.close(4000)

    async with Peer(Handler) as peer:
        peer.say("null")
        await peer.ended()
        assert reached == ["after the loop"]


async def test_sleep_loop_ends_at_once_after_the_close() -> None:
    async with Peer(Quiet) as peer:
        handler = peer.handler
        await handler.close()
        await handler.sleep_loop(at_once, 3600)


async def test_two_sleep_loops_end_at_the_close() -> None:
    async with Peer(Quiet) as peer:
        loops = [asyncio.ensure_future(peer.handler.sleep_loop(at_once, 3600)) for _ in range(2)]
        await turns()
        await peer.handler.close()
        await asyncio.gather(*loops)


async def test_sleep_loop_as_a_task_ends_at_the_close() -> None:
    async with Peer(Quiet) as peer:
        task = peer.handler.start_task("loop", peer.handler.sleep_loop, args=(at_once, 3600))
        await turns()
        peer.leave()
        await peer.ended()
        assert task.done()


async def test_an_exception_ends_the_sleep_loop_and_is_raised() -> None:
    async with Peer(Quiet) as peer:
        with pytest.raises(LookupError, match="the task failed"):
            await peer.handler.sleep_loop(fails, 0.001)


@pytest.mark.parametrize("seconds", [0, -1, math.nan])
async def test_sleep_loop_refuses(seconds: float) -> None:
    async with Peer(Quiet) as peer:
        with pytest.raises(ValueError, match="positive"):
            await peer.handler.sleep_loop(at_once, seconds)


# --- start_ping -------------------------------------------------------------------------------


def with_codec(codec_of_handler: Codec) -> type[WebSocketHandler]:
    class Handler(WebSocketHandler):
        codec = codec_of_handler

        async def on_open(self) -> None:
            self.start_ping(0.001)

    return Handler


@pytest.mark.parametrize(
    ("codec", "of_client", "of_test"),
    [
        (JSONCodec(), JSONCodec(), JSONCodec()),
        (MessagePackCodec(), MessagePackCodec(), MessagePackCodec()),
        (TextCodec(), TextCodec(), JSONCodec()),
        (BytesCodec(), BytesCodec(), JSONCodec()),
    ],
    ids=lambda codec: type(codec).__name__,
)
async def test_a_ping_is_a_message_with_the_iso_time(
    codec: Codec, of_client: Codec, of_test: Codec
) -> None:
    async with client(with_codec(codec), codec=of_client) as ws:
        message = of_test.decode(await ws.receive_data())
    assert list(message) == ["ping"]
    time = dt.datetime.fromisoformat(message["ping"])
    assert abs(dt.datetime.now(dt.UTC) - time) < dt.timedelta(minutes=1)


async def test_ping_is_a_task_of_that_name() -> None:
    async with Peer(Quiet) as peer:
        peer.handler.start_ping()
        assert list(peer.handler.tasks) == ["ping"]


async def test_ping_comes_every_ws_ping_interval(settings: Settings) -> None:
    settings.WS_PING_INTERVAL = 0.001
    async with Peer(Quiet) as peer:
        peer.handler.start_ping()
        await until(lambda: len(peer.texts) >= 2)


async def test_ping_ends_at_the_close_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "django.ws.request")
    async with client(with_codec(JSONCodec())) as ws:
        await ws.receive()
    assert caplog.records == []
