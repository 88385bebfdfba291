"""Draining: all are told, nothing is cut off, and the closes come one after the other."""

import asyncio
import logging
import threading
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
from pytest_django import Settings

from django_ws import ConnectionClosed, WebSocketHandler
from django_ws.connection.retry_after import retry_after
from django_ws.drain import drain, is_draining
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.asgi_peer import PATH, Peer, route, turns, until

HTTP: dict[str, Any] = {"websocket.http.response": {}}
RESTARTING = (1012, "the server restarts: retry after 7 s")
SECONDS = 50.0  # the bound of every wait
LONG = 3600.0  # what a test would never live to see
Drained = asyncio.Task[None]


@pytest.fixture(autouse=True)
def at_once_and_patiently(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.WS_DRAIN_SECONDS = 0
    settings.WS_CONNECT_TIMEOUT = settings.WS_CLOSE_TIMEOUT = SECONDS
    monkeypatch.setattr("django_ws.lifecycle.life.retry_after", lambda: 7)


@pytest.fixture
def short_close(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.WS_CLOSE_TIMEOUT = 0.02
    monkeypatch.setattr("django_ws.lifecycle.end.LAST_SECONDS", 0.02)
    monkeypatch.setattr("django_ws.drain.LAST_SECONDS", SECONDS)  # it does not end that itself


def begin(**options: float) -> Drained:
    return asyncio.create_task(drain(**options), name="drain")


async def ended(task: Drained) -> None:
    async with asyncio.timeout(SECONDS):
        await task


async def closed(ws: WebSocketClient) -> tuple[int | None, str]:
    with pytest.raises(ConnectionClosed):
        await ws.receive()
    return ws.close_code, ws.close_reason


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


class Telling(WebSocketHandler):
    """Says a last word."""

    codes: list[int | None]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.codes = []

    async def on_restart(self) -> None:
        await self.send("last word")

    async def on_close(self) -> None:
        self.codes.append(self.close_code)


# --- what a handler and its client see ----------------------------------------------------------


async def test_the_last_word_comes_before_the_close_and_on_close_after_it() -> None:
    class Handler(Telling):
        pass

    async with Peer(Handler) as peer:
        await drain()
        assert [event["type"] for event in peer.sent] == [
            "websocket.accept", "websocket.send", "websocket.close",
        ]  # fmt: skip
        assert peer.texts == ['"last word"']
        assert peer.closes == [RESTARTING]
        assert Handler.codes == [1012]
        assert peer.task.done()


async def test_a_plain_function_says_it_too_and_is_waited_for() -> None:
    class Handler(WebSocketHandler):
        def on_restart(self) -> None:
            assert threading.current_thread() is not threading.main_thread()
            self.send("last word")

    async with Peer(Handler) as peer:
        await drain()
        assert peer.texts == ['"last word"']
        assert peer.closes == [RESTARTING]


async def test_the_hook_may_call_that_of_its_base_class() -> None:
    class Handler(WebSocketHandler):
        async def on_restart(self) -> None:
            await super().on_restart()
            await self.send("last word")

    async with Peer(Handler) as peer:
        await drain()
        assert peer.texts == ['"last word"']


async def test_a_handler_without_the_hook_is_closed_all_the_same() -> None:
    async with Peer(WebSocketHandler) as peer:
        await drain()
        assert peer.closes == [RESTARTING]


async def test_a_hook_that_runs_for_long_can_see_the_restart() -> None:
    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            before = self.restarting
            await until(lambda: self.restarting)
            await self.send(f"done with {message} {before}")

    async with Peer(Handler) as peer:
        peer.say("1")
        await until(lambda: peer.received == 2)
        await ended(begin())
        assert peer.texts == ['"done with 1 False"']
        assert peer.closes == [RESTARTING]
        assert not peer.handler.restarting  # it is over


async def test_the_hook_runs_beside_a_message_whose_answer_goes_out_before_the_close() -> None:
    go_on = asyncio.Event()

    class Handler(Telling):
        async def on_message(self, message: Any) -> None:
            await go_on.wait()
            await self.send(f"done with {message}")

    async with Peer(Handler) as peer:
        peer.say("1")
        await until(lambda: peer.received == 2)
        draining = begin()
        await until(lambda: peer.texts == ['"last word"'])
        await turns()
        assert peer.closes == []
        go_on.set()
        await ended(draining)
        assert peer.texts == ['"last word"', '"done with 1"']
        assert peer.closes == [RESTARTING]
        assert Handler.codes == [1012]


async def test_what_was_sent_before_the_close_goes_out_to_a_slow_client() -> None:
    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            for number in range(3):
                self.send(number)

    async with Peer(Handler) as peer:
        peer.block()
        peer.say("1")
        await until(lambda: peer.handler._connection.outbound.size)
        draining = begin()
        await turns()
        assert not draining.done()
        peer.unblock()
        await ended(draining)
        assert peer.texts == ["0", "1", "2"]
        assert peer.closes == [RESTARTING]


async def test_messages_are_handled_until_the_turn_of_a_connection_has_come(
    settings: Settings,
) -> None:
    settings.WS_DRAIN_SECONDS = LONG

    class Echo(Telling):
        async def on_message(self, message: Any) -> None:
            await self.send(message)

    async with AsyncExitStack() as stack:
        with route(Echo):
            clients = [
                await stack.enter_async_context(WebSocketClient(PATH, timeout=SECONDS))
                for _ in range(2)
            ]
            draining = begin()
            for ws in clients:
                assert await ws.receive() == "last word"  # told at once, both of them
            await until(lambda: Echo.codes == [1012])  # one goes at once, the other in half an hour
            answers = []
            for ws in clients:
                try:
                    await ws.send("still there?")
                    answers.append(await ws.receive())
                except ConnectionClosed:
                    assert (ws.close_code, ws.close_reason) == RESTARTING
                    staying = clients[1 - clients.index(ws)]
            assert answers == ["still there?"]
            assert not draining.done()
            await staying.close()
            await ended(draining)  # since nothing is left to be done
            assert len(Echo.codes) == 2


async def test_whoever_has_gone_by_then_is_not_waited_for(settings: Settings) -> None:
    settings.WS_DRAIN_SECONDS = LONG

    class Handler(Telling):
        pass

    async with AsyncExitStack() as stack:
        with route(Handler):
            clients = [
                await stack.enter_async_context(WebSocketClient(PATH, timeout=SECONDS))
                for _ in range(3)
            ]
            draining = begin()
            for ws in clients:
                assert await ws.receive() == "last word"
                await ws.close()
            await ended(draining)


async def test_on_restart_comes_after_on_open() -> None:
    go_on = asyncio.Event()

    class Handler(Telling):
        async def on_open(self) -> None:
            await go_on.wait()
            await self.send("open")

    async with Peer(Handler) as peer:
        draining = begin()
        await turns()
        assert peer.texts == []
        go_on.set()
        await ended(draining)
        assert peer.texts == ['"open"', '"last word"']
        assert peer.closes == [RESTARTING]


async def test_on_restart_is_not_called_where_the_client_leaves_before_on_open_has_returned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("django_ws.connection.inbound.SWEEP_SECONDS", 0.01)
    go_on = asyncio.Event()

    class Handler(Telling):
        async def on_open(self) -> None:
            await go_on.wait()

    async with Peer(Handler) as peer:
        draining = begin()
        peer.leave(code=1000, reason="")
        await until(lambda: peer.handler.closed)
        go_on.set()
        await ended(draining)
        assert peer.texts == []
        assert Handler.codes == [1000]


async def test_an_exception_in_the_hook_closes_as_in_any_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors: list[BaseException] = []

    class Handler(WebSocketHandler):
        async def on_restart(self) -> None:
            raise LookupError("no last word")

        async def on_error(self, error: BaseException) -> None:
            errors.append(error)

    async with Peer(Handler) as peer:
        await drain()
        assert [code for code, _ in peer.closes] == [1011]
    assert [str(error) for error in errors] == ["no last word"]
    assert "on_restart" in caplog.text


async def test_the_hook_may_close_by_itself() -> None:
    class Handler(WebSocketHandler):
        async def on_restart(self) -> None:
            await self.close(4000, "my own end")

    async with Peer(Handler) as peer:
        await drain()
        assert peer.closes == [(4000, "my own end")]


async def test_a_hook_that_is_closed_by_its_client_is_no_trouble() -> None:
    class Handler(Telling):
        async def on_restart(self) -> None:
            await asyncio.wait([asyncio.ensure_future(self._connection.closed_future)])

    async with Peer(Handler) as peer:
        draining = begin()
        await turns()
        peer.leave(code=1000, reason="")
        await ended(draining)
        assert peer.closes == []
        assert Handler.codes == [1000]


# --- what does not end by itself ----------------------------------------------------------------


@pytest.mark.usefixtures("short_close")
async def test_a_hook_that_does_not_end_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    cancelled: list[str] = []

    class Handler(Telling):
        async def on_message(self, message: Any) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(message)
                raise

    async with Peer(Handler) as peer:
        peer.say('"slow"')
        await until(lambda: peer.received == 2)
        await drain()
        assert peer.closes == [RESTARTING]
        assert Handler.codes == [1012]
    assert cancelled == ["slow"]
    assert "on_message did not end within WS_CLOSE_TIMEOUT" in warnings_in(caplog)[0]


@pytest.mark.usefixtures("short_close")
async def test_a_last_word_that_does_not_end_is_left_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go_on = asyncio.Event()

    class Handler(Telling):
        async def on_restart(self) -> None:
            await go_on.wait()

    async with Peer(Handler) as peer:
        await drain()
        assert peer.closes == [RESTARTING]
        assert Handler.codes == [1012]
        go_on.set()
    assert "left behind: on_restart" in warnings_in(caplog)[0]


async def test_what_has_not_ended_when_time_is_up_is_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cancelled = []

    async def deaf(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    any_route: Any = deaf
    async with Peer(any_route) as peer:
        await drain(budget=0.1)
        assert peer.closes == [RESTARTING]
        await peer.ended()  # without an exception, which servers would log with its traceback
    assert cancelled == [True]
    assert warnings_in(caplog) == ["Draining: 1 connection has not ended, and is cancelled: /ws/"]


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_hook_that_still_runs_when_time_is_up_ends_with_the_same_close(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()

    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            await asyncio.Event().wait()

    class SyncHandler(WebSocketHandler):
        def on_message(self, message: Any) -> None:
            go_on.wait(SECONDS)

    try:
        async with Peer(Handler if kind == "async" else SyncHandler) as peer:
            peer.say("1")
            await until(lambda: peer.handler._connection.inbound.in_hook)
            await drain(budget=0.1)
            assert peer.closes == [RESTARTING]
            await peer.ended()
    finally:
        go_on.set()
    assert warnings_in(caplog) == ["Draining: 1 connection has not ended, and is cancelled: /ws/"]


async def test_the_budget_of_the_server_shortens_the_drain(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.WS_DRAIN_SECONDS = LONG
    caplog.set_level(logging.INFO, "django.ws")

    class Handler(Telling):
        pass

    with route(Handler):
        async with (
            WebSocketClient(PATH, timeout=SECONDS) as one,
            WebSocketClient(PATH, timeout=SECONDS) as two,
        ):
            # Less than WS_CLOSE_TIMEOUT: nothing is left over which to spread the closes.
            await ended(begin(budget=45))
            for ws in (one, two):
                assert await ws.receive() == "last word"
                assert await closed(ws) == RESTARTING
    line = "2 connections are closed over 0 s, not over WS_DRAIN_SECONDS: there are 45 s"
    assert line in caplog.text


async def test_many_sockets_are_told_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django_ws.drain.TOLD_AT_ONCE", 3)

    class Handler(Telling):
        pass

    async with AsyncExitStack() as stack:
        with route(Handler):
            clients = [
                await stack.enter_async_context(WebSocketClient(PATH, timeout=SECONDS))
                for _ in range(10)
            ]
            await ended(begin(seconds=0.05))
            for ws in clients:
                assert await ws.receive() == "last word"
                assert await closed(ws) == RESTARTING
    assert Handler.codes == [1012] * 10


# --- who comes, and who is not open yet ---------------------------------------------------------


async def test_new_handshakes_are_answered_503() -> None:
    assert not is_draining()
    await drain()
    assert is_draining()
    with route(Telling), pytest.raises(HandshakeRejected) as refused:
        async with WebSocketClient(PATH, timeout=SECONDS):
            pass
    assert refused.value.status == 503
    assert refused.value.reason == "Service Unavailable"
    assert 1 <= int(refused.value.headers["retry-after"]) <= 10


async def test_handshakes_under_way_are_answered_503() -> None:
    go_on = asyncio.Event()

    class Handler(Telling):
        async def on_connect(self) -> None:
            await go_on.wait()

    async with Peer(Handler, opens=False, extensions=HTTP) as peer:
        await until(lambda: peer.received == 1)
        draining = begin()
        await until(lambda: peer.sent)
        assert peer.sent[0]["status"] == 503
        assert b"retry-after" in dict(peer.sent[0]["headers"])
        go_on.set()
        await ended(draining)
    assert Handler.codes == []


async def test_a_client_that_has_yet_to_log_in_by_its_first_message_is_closed_with_1012() -> None:
    """It would otherwise hold up the drain to its end, and then be told that it may not come."""

    class Handler(Telling):
        async def authenticate_first(self, message: Any) -> None: ...

    async with Peer(Handler) as peer:
        await ended(begin())
        assert peer.closes == [RESTARTING]
        await peer.ended()
    assert Handler.codes == []


async def test_clients_are_told_to_come_back_at_different_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("django_ws.lifecycle.life.retry_after", retry_after)
    async with AsyncExitStack() as stack:
        with route(WebSocketHandler):
            clients = [
                await stack.enter_async_context(WebSocketClient(PATH, timeout=SECONDS))
                for _ in range(50)
            ]
            await ended(begin())
            seconds = {(await closed(ws))[1].removeprefix(RESTARTING[1][:-3]) for ws in clients}
    assert len(seconds) > 1
    assert seconds <= {f"{number} s" for number in range(1, 11)}


async def test_another_event_loop_is_not_drained() -> None:
    """As in a test that has a live server in a thread."""
    async with Peer(Telling) as peer:
        await asyncio.to_thread(lambda: asyncio.run(drain()))
        await turns()
        assert peer.sent == [{"type": "websocket.accept"}]
        assert not is_draining(asyncio.get_running_loop())
    assert not is_draining()  # that loop is closed


# --- ASGI applications --------------------------------------------------------------------------


async def test_the_application_of_a_route_is_closed_and_told() -> None:
    events: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        events.append(await receive())

    any_route: Any = application
    async with Peer(any_route) as peer:
        peer.on_send = lambda event: peer.leave(code=1012)  # as servers do after a close
        await drain()
        assert peer.closes == [RESTARTING]
    assert events == [
        {"type": "websocket.disconnect", "code": RESTARTING[0], "reason": RESTARTING[1]}
    ]


@pytest.mark.parametrize("waits", [True, False], ids=["receiving", "busy"])
async def test_an_application_that_has_not_answered_is_refused_at_once(waits: bool) -> None:
    """Not in its turn, and with a time to come back, as a handler whose handshake is under way."""
    events: list[Any] = []
    go_on = asyncio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        events.append(await receive())
        if waits:
            events.append(await receive())
        else:
            await go_on.wait()
        await send({"type": "websocket.accept"})  # too late: it goes nowhere

    def leave(peer: Peer, event: Any) -> None:
        if event["type"] == "websocket.http.response.body":
            peer.leave(code=1006)  # as servers do after a refusal

    any_route: Any = application
    async with AsyncExitStack() as stack:
        peers = []
        for _ in range(5):
            peer = Peer(any_route, opens=False, extensions=HTTP)
            peer.on_send = partial(leave, peer)
            peers.append(await stack.enter_async_context(peer))
        await until(lambda: len(events) == 5)
        draining = begin(seconds=LONG)
        await until(lambda: all(len(peer.sent) == 2 for peer in peers))
        for peer in peers:
            start, body = peer.sent
            assert (start["status"], body["body"]) == (503, b"the server restarts: retry after 7 s")
            [retry] = [value for name, value in start["headers"] if name.lower() == b"retry-after"]
            assert 1 <= int(retry) <= 10
        go_on.set()
        await ended(draining)
        assert all(len(peer.sent) == 2 for peer in peers)
    assert events[5:] == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}] * (
        5 * waits
    )
