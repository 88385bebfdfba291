"""The end of a connection: on_close exactly once, whatever happened, and in bounded time."""

import asyncio
import json
import logging
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from pytest_django import Settings

from django_ws import ConnectionClosed, WebSocketHandler
from tests.support.asgi_peer import Peer, turns, until


class Ending(WebSocketHandler):
    """Records each call of ``on_close`` with the close code."""

    ends: list[int | None]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.ends = []

    async def on_close(self) -> None:
        self.ends.append(self.close_code)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook counts as slow at once, for quick tests."""
    monkeypatch.setattr("django_ws.connection.inbound.SWEEP_SECONDS", 0.01)


@pytest.fixture
def short_close(settings: Settings) -> None:
    settings.WS_CLOSE_TIMEOUT = 0.02


@pytest.fixture
def short_last_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django_ws.lifecycle.end.LAST_SECONDS", 0.02)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


# --- on_close exactly once --------------------------------------------------------------------


async def test_the_client_closes() -> None:
    class Handler(Ending):
        pass

    async with Peer(Handler) as peer:
        peer.leave(code=1000, reason="")
        await peer.ended()
    assert Handler.ends == [1000]


async def test_the_client_vanishes_without_a_close_frame() -> None:
    class Handler(Ending):
        pass

    async with Peer(Handler) as peer:
        peer.leave(code=1006)
        await peer.ended()
    assert Handler.ends == [1006]


async def test_the_server_closes() -> None:
    class Handler(Ending):
        pass

    async with Peer(Handler) as peer:
        await peer.handler.close(4000)
        peer.leave(code=4000)
        await peer.ended()
    assert Handler.ends == [4000]


async def test_receive_raises(caplog: pytest.LogCaptureFixture) -> None:
    class Handler(Ending):
        pass

    async with Peer(Handler) as peer:
        peer.break_receive(OSError("the server broke"))
        await peer.ended()
    assert Handler.ends == [1006]
    assert warnings_in(caplog) == []


async def test_receive_raises_while_a_hook_runs(caplog: pytest.LogCaptureFixture) -> None:
    go_on = asyncio.Event()

    class Handler(Ending):
        async def on_message(self, message: Any) -> None:
            await go_on.wait()

    async with Peer(Handler) as peer:
        peer.say("1")
        peer.break_receive(OSError("the server broke"))
        await until(lambda: peer.handler.closed)
        go_on.set()
        await peer.ended()
    assert Handler.ends == [1006]
    assert warnings_in(caplog) == []


async def test_receive_is_cancelled_by_the_server_itself() -> None:
    class Handler(Ending):
        pass

    async with Peer(Handler) as peer:
        peer.break_receive(asyncio.CancelledError())
        await asyncio.wait([peer.task])
    assert len(Handler.ends) == 1


async def test_an_event_of_an_unknown_type_ends_the_connection() -> None:
    class Handler(Ending):
        pass

    async with Peer(Handler) as peer:
        peer.feed({"type": "websocket.unheard_of"})
        await peer.ended()
    assert Handler.ends == [1006]


async def cancelled(peer: Peer) -> None:
    peer.task.cancel()
    await asyncio.wait([peer.task])
    assert peer.task.cancelled()


async def test_the_application_is_cancelled_while_it_waits_for_a_message() -> None:
    class Handler(Ending):
        pass

    async with Peer(Handler) as peer:
        await turns()
        await cancelled(peer)
        assert peer.closes == [(1001, "")]
    assert Handler.ends == [1001]


@pytest.mark.parametrize("hook", ["on_open", "on_message"])
async def test_the_application_is_cancelled_while_a_hook_runs(hook: str) -> None:
    started = asyncio.Event()

    async def forever(self: Any, *args: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    class Handler(Ending):
        pass

    handler_class: Any = type("Built", (Handler,), {hook: forever})
    async with Peer(handler_class) as peer:
        peer.say("1")
        await started.wait()
        await cancelled(peer)
    assert handler_class.ends == [1001]


async def test_the_application_is_cancelled_while_on_connect_runs() -> None:
    started = asyncio.Event()

    class Handler(Ending):
        async def on_connect(self) -> None:
            started.set()
            await asyncio.Event().wait()

    async with Peer(Handler, opens=False) as peer:
        await started.wait()
        await cancelled(peer)
    assert Handler.ends == []


async def test_the_application_is_cancelled_while_the_accept_blocks(short_close: None) -> None:
    class Handler(Ending):
        pass

    async with Peer(Handler, opens=False) as peer:
        peer.block()
        await turns()
        await cancelled(peer)
    assert Handler.ends == []


def never_ends(func: Callable[[WebSocketHandler], Awaitable[None]]) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        await asyncio.Event().wait()

    return middleware


async def test_the_application_is_cancelled_while_a_middleware_runs() -> None:
    class Handler(Ending):
        pass

    async with Peer(Handler, opens=False, middleware=[f"{__name__}.never_ends"]) as peer:
        await turns()
        await cancelled(peer)
        assert peer.handler.closed
    assert Handler.ends == []


class NoException(BaseException):
    """What is meant to end more than a connection, as SystemExit is."""


async def test_a_base_exception_in_a_hook_passes_through_after_on_close() -> None:
    class Handler(Ending):
        async def on_message(self, message: Any) -> None:
            raise NoException

    async with Peer(Handler) as peer:
        peer.say("1")
        with pytest.raises(NoException):
            await peer.ended()
        assert peer.closes == [(1011, "")]
    assert Handler.ends == [1011]


async def test_the_application_is_cancelled_while_on_close_runs() -> None:
    started = asyncio.Event()
    ends: list[int] = []

    class Handler(WebSocketHandler):
        async def on_close(self) -> None:
            ends.append(1)
            started.set()
            await asyncio.Event().wait()

    async with Peer(Handler) as peer:
        peer.leave()
        await started.wait()
        await cancelled(peer)
    assert ends == [1]


async def test_the_application_is_cancelled_while_it_waits_for_tasks() -> None:
    ending, go_on = asyncio.Event(), asyncio.Event()

    async def slow_to_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            await go_on.wait()

    class Handler(Ending):
        async def on_open(self) -> None:
            self.start_task("slow", slow_to_end)

    async with Peer(Handler) as peer:
        await turns()
        peer.leave(code=1000, reason="")
        await ending.wait()
        await cancelled(peer)
        go_on.set()
        await turns()
    assert Handler.ends == [1000]


async def test_a_cancelled_application_ends_its_tasks() -> None:
    class Handler(Ending):
        async def on_open(self) -> None:
            started.append(self.start_task("task", asyncio.Event().wait))

    started: list[Any] = []
    async with Peer(Handler) as peer:
        await until(lambda: started)
        await turns()
        await cancelled(peer)
        assert started[0].cancelled()


async def test_a_cancelled_sync_hook_still_lets_on_close_run() -> None:
    in_hook, enough = threading.Event(), threading.Event()

    class Handler(Ending):
        def on_message(self, message: Any) -> None:
            in_hook.set()
            enough.wait(5)

    try:
        async with Peer(Handler) as peer:
            peer.say("1")
            await until(in_hook.is_set)
            peer.task.cancel()
            await turns()
            enough.set()
            await asyncio.wait([peer.task])
    finally:
        enough.set()
    assert Handler.ends == [1001]


async def test_on_close_of_a_sync_kind_runs_when_the_application_is_cancelled() -> None:
    ends: list[int | None] = []

    class Handler(WebSocketHandler):
        def on_close(self) -> None:
            ends.append(self.close_code)

    async with Peer(Handler) as peer:
        await turns()
        await cancelled(peer)
    assert ends == [1001]


def swallows(func: Callable[[WebSocketHandler], Awaitable[None]]) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        with suppress(asyncio.CancelledError):
            await func(ws)

    return middleware


async def test_a_middleware_may_swallow_the_cancellation() -> None:
    class Handler(Ending):
        pass

    async with Peer(Handler, middleware=[f"{__name__}.swallows"]) as peer:
        await turns()
        peer.task.cancel()
        await peer.ended()
    assert Handler.ends == [1001]


async def test_a_handler_serves_one_connection() -> None:
    async with Peer(WebSocketHandler) as peer:
        handler = peer.handler
        peer.leave()
        await peer.ended()
        with pytest.raises(RuntimeError, match="one connection"):
            await handler._run()


async def test_an_ended_handler_has_no_tasks() -> None:
    async with Peer(WebSocketHandler) as peer:
        handler = peer.handler
        peer.leave()
        await peer.ended()
        assert handler.tasks == {}
        await handler.cancel_task("any")
        with pytest.raises(ConnectionClosed):
            handler.start_task("any", asyncio.Event().wait)


# --- in bounded time --------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["client", "server"])
async def test_a_hook_that_outlives_ws_close_timeout_is_cancelled_and_named(
    by: str, short_close: None, caplog: pytest.LogCaptureFixture
) -> None:
    reached: list[str] = []

    class Handler(Ending):
        async def on_message(self, message: Any) -> None:
            if by == "server":
                self.close(4000)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                reached.append("cancelled")
                raise

    async with Peer(Handler) as peer:
        peer.say("1")
        if by == "client":
            peer.leave(code=4000)
        await peer.ended()
    assert reached == ["cancelled"]
    assert Handler.ends == [4000]
    (line,) = warnings_in(caplog)
    assert "on_message did not end within WS_CLOSE_TIMEOUT (0.02 s)" in line


async def test_on_open_that_outlives_ws_close_timeout_is_cancelled_and_named(
    short_close: None, caplog: pytest.LogCaptureFixture
) -> None:
    class Handler(Ending):
        async def on_open(self) -> None:
            self.close(4000)
            await asyncio.Event().wait()

    async with Peer(Handler) as peer:
        await peer.ended()
    assert Handler.ends == [4000]
    assert "on_open did not end" in warnings_in(caplog)[0]


async def test_a_running_hook_is_not_cut_off_before_ws_close_timeout() -> None:
    go_on = asyncio.Event()
    reached: list[str] = []

    class Handler(Ending):
        async def on_message(self, message: Any) -> None:
            await go_on.wait()
            reached.append("end of the hook")

    async with Peer(Handler) as peer:
        peer.say("1")
        peer.leave(code=1000)
        await until(lambda: peer.handler.closed)
        assert reached == []
        go_on.set()
        await peer.ended()
    assert reached == ["end of the hook"]


async def test_messages_that_had_arrived_before_the_close_are_still_handled() -> None:
    go_on = asyncio.Event()
    handled: list[int] = []

    class Handler(Ending):
        async def on_message(self, message: int) -> None:
            await go_on.wait()
            handled.append(message)

    async with Peer(Handler) as peer:
        peer.say("1", "2", "3")
        peer.leave(code=1000)
        await until(lambda: peer.handler.closed)
        go_on.set()
        await peer.ended()
    assert handled == [1, 2, 3]
    assert len(Handler.ends) == 1


async def test_the_messages_that_are_left_share_ws_close_timeout(
    short_close: None, caplog: pytest.LogCaptureFixture
) -> None:
    started: list[int] = []

    class Handler(Ending):
        async def on_message(self, message: int) -> None:
            started.append(message)
            await asyncio.Event().wait()

    async with Peer(Handler) as peer:
        peer.say("1", "2", "3")
        peer.leave(code=1000)
        await peer.ended()
    assert started == [1]
    assert len(warnings_in(caplog)) == 1


@pytest.mark.usefixtures("short_close", "short_last_seconds")
async def test_a_hook_that_swallows_its_cancellation_is_named_and_on_close_runs_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    enough = asyncio.Event()

    class Handler(Ending):
        async def on_message(self, message: Any) -> None:
            while not enough.is_set():
                with suppress(asyncio.CancelledError):
                    await enough.wait()

    async with Peer(Handler) as peer:
        peer.say("1")
        peer.leave(code=4000)
        await until(lambda: Handler.ends)
        assert not peer.task.done()
        enough.set()
        await peer.ended()
    assert Handler.ends == [4000]
    assert any("ignores its cancellation" in line for line in warnings_in(caplog))
    assert any("on_message" in line for line in warnings_in(caplog))


async def test_a_hook_that_swallows_its_cancellation_and_returns_ends_quietly(
    short_close: None, caplog: pytest.LogCaptureFixture
) -> None:
    class Handler(Ending):
        async def on_message(self, message: Any) -> None:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    async with Peer(Handler) as peer:
        peer.say("1", "2")
        peer.leave(code=4000)
        await peer.ended()
    assert Handler.ends == [4000]
    assert len(warnings_in(caplog)) == 1


@pytest.mark.usefixtures("short_last_seconds")
async def test_an_on_connect_that_ignores_its_time_out_is_named(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    enough = asyncio.Event()
    settings.WS_CONNECT_TIMEOUT = settings.WS_CLOSE_TIMEOUT = 0.02

    class Handler(Ending):
        async def on_connect(self) -> None:
            while not enough.is_set():
                with suppress(asyncio.CancelledError):
                    await enough.wait()

    async with Peer(Handler, opens=False) as peer:
        await until(lambda: any("ignores" in line for line in warnings_in(caplog)))
        enough.set()
        await peer.ended()
    assert Handler.ends == []


@pytest.mark.usefixtures("short_close", "short_last_seconds")
async def test_an_on_close_that_outlives_the_time_is_cancelled_and_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Handler(WebSocketHandler):
        async def on_close(self) -> None:
            await asyncio.Event().wait()

    async with Peer(Handler) as peer:
        peer.leave()
        await peer.ended()
    assert ["on_close did not end" in line for line in warnings_in(caplog)] == [True]


@pytest.mark.usefixtures("short_close", "short_last_seconds")
async def test_a_sync_on_close_that_outlives_the_time_is_left_to_itself_and_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    enough = threading.Event()
    reached: list[str] = []

    class Handler(WebSocketHandler):
        def on_close(self) -> None:
            enough.wait(5)
            reached.append("end of on_close")

    try:
        async with Peer(Handler) as peer:
            peer.leave()
            await peer.ended()
            assert reached == []
    finally:
        enough.set()
    await until(lambda: reached)
    assert ["left to itself" in line for line in warnings_in(caplog)] == [True]


async def test_on_close_gets_a_second_even_where_the_hook_took_all_the_time(
    short_close: None,
) -> None:
    reached: list[str] = []

    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            await asyncio.Event().wait()

        async def on_close(self) -> None:
            await asyncio.sleep(0.04)
            reached.append("end of on_close")

    async with Peer(Handler) as peer:
        peer.say("1")
        peer.leave()
        await peer.ended()
    assert reached == ["end of on_close"]


async def test_a_time_out_error_in_on_close_is_its_own(caplog: pytest.LogCaptureFixture) -> None:
    class Handler(WebSocketHandler):
        async def on_close(self) -> None:
            raise TimeoutError("of its own")

    async with Peer(Handler) as peer:
        peer.leave()
        await peer.ended()
    assert ["exception in on_close" in line for line in warnings_in(caplog)] == [True]


async def test_a_task_whose_name_a_client_chose_cannot_forge_a_line_of_the_log(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings.WS_CLOSE_TIMEOUT = 0.01
    ended = asyncio.Event()

    class Handler(WebSocketHandler):
        async def on_message(self, message: str) -> None:
            self.start_task(message, self.linger)

        async def linger(self) -> None:
            while not ended.is_set():
                with suppress(asyncio.CancelledError):
                    await ended.wait()

    async with Peer(Handler) as peer:
        peer.say(json.dumps("a\nERROR forged"))
        await until(lambda: peer.handler.tasks)
        await asyncio.sleep(0)
        await peer.handler.close()
        await peer.ended()
        ended.set()
    [line] = [message for message in caplog.messages if "left behind" in message]
    assert line.endswith("left behind: a\\nERROR forged")
