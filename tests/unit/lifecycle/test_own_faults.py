"""What leaves a hook and is no fault of its code: a slow client, a backend that is away."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.core.signals import got_request_exception
from pytest_django import Settings

from django_ws import WebSocketHandler, broadcast_on_commit
from django_ws.exceptions import BroadcastError, SendTimeout
from django_ws.testing import HandshakeRejected
from django_ws.threads import any_thread
from tests.support.asgi_peer import Peer, client, until
from tests.support.fickle import FickleBackend, fickle  # noqa: F401  (a fixture)


@pytest.fixture
def reported() -> Iterator[list[Any]]:
    found: list[Any] = []

    def note(**told: Any) -> None:
        found.append(told)

    got_request_exception.connect(note)
    yield found
    got_request_exception.disconnect(note)


async def test_a_client_that_does_not_read_makes_no_error_of_a_sync_hook_that_sends(
    settings: Settings, reported: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    settings.WS_SEND_TIMEOUT = 0.05

    class Handler(WebSocketHandler):
        def on_message(self, message: Any) -> None:
            self.send(message)

    async with Peer(Handler) as peer:
        peer.block()
        peer.say("1", "2")
        await peer.ended()
        assert peer.handler.close_code == 1013
    assert reported == []
    [record] = caplog.records
    assert (record.levelname, record.exc_info) == ("WARNING", None)
    assert "the client reads too slowly" in record.getMessage()


async def test_clients_that_do_not_read_do_not_take_all_threads(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(any_thread, "_may_wait", lambda: 1)
    settings.WS_SEND_TIMEOUT = 600.0

    class Handler(WebSocketHandler):
        def on_message(self, message: Any) -> None:
            self.send(message)

    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(Peer(Handler)) for _ in range(4)]
        for peer in peers:
            peer.block()
            peer.say("1", "2")
        closed = [asyncio.create_task(peer.ended()) for peer in peers]
        while len([each for each in closed if each.done()]) < 3:
            await asyncio.wait(closed, return_when=asyncio.FIRST_COMPLETED, timeout=0.1)
        [slow] = [peer for peer, ended in zip(peers, closed, strict=True) if not ended.done()]
        slow.unblock()
        await until(lambda: slow.texts == ["1", "2"])


async def test_who_is_only_kept_waiting_by_the_event_loop_waits_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(any_thread, "_may_wait", lambda: 0)

    class Handler(WebSocketHandler):
        def on_message(self, message: Any) -> None:
            asyncio.run_coroutine_threadsafe(stall(), loop)
            self.send(message)

    async def stall() -> None:
        time.sleep(2 * any_thread.CROWDED_SECONDS)  # noqa: ASYNC251

    loop = asyncio.get_running_loop()
    async with Peer(Handler) as one, Peer(Handler) as two:
        one.say("1")
        two.say("2")
        await until(lambda: one.texts + two.texts == ["1", "2"])


async def test_a_send_time_out_of_another_connection_is_an_error(
    settings: Settings, reported: list[Any]
) -> None:
    settings.WS_SEND_TIMEOUT = 0.05
    async with Peer(WebSocketHandler) as slow:
        slow.block()
        other = slow.handler

        class Handler(WebSocketHandler):
            def on_message(self, message: Any) -> None:
                other.send(message)

        async with Peer(Handler) as peer:
            peer.say("1")
            await peer.ended()
            assert [code for code, _ in peer.closes] == [1011]
        assert other.connected
    [told] = reported
    assert told["sender"].__name__ == "Handler"
    assert SendTimeout.__name__ == "SendTimeout"


class Room(WebSocketHandler):
    async def on_message(self, message: Any) -> None:
        await self.broadcast("room", message)

    async def on_error(self, error: BaseException) -> None:
        assert isinstance(error, BroadcastError)
        await self.send("not sent on")


async def test_a_backend_that_is_away_closes_with_1013_and_reports_nothing(
    fickle: type[FickleBackend],  # noqa: F811
    reported: list[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    fickle.is_down = True
    async with Peer(Room) as peer:
        peer.say("1", "2")
        await peer.ended()
        assert peer.texts == ['"not sent on"']
        assert [code for code, _ in peer.closes] == [1013]
    assert reported == []
    [line] = [record for record in caplog.records if record.name == "django.ws.request"]
    assert (line.levelname, line.exc_info) == ("ERROR", None)
    assert line.getMessage() == (
        "WebSocket /ws/: publish failed at fickle: it is down (in on_message). Catch "
        "BroadcastError where the code is to go on without it."
    )


async def test_in_the_handshake_it_refuses_with_503(
    fickle: type[FickleBackend],  # noqa: F811
) -> None:
    class Telling(WebSocketHandler):
        async def on_connect(self) -> None:
            await self.broadcast("room", "somebody comes")

    fickle.is_down = True
    with pytest.raises(HandshakeRejected) as refused:
        async with client(Telling):
            pass
    assert refused.value.status == 503


async def test_after_the_close_nobody_is_told_but_the_log(
    fickle: type[FickleBackend],  # noqa: F811
    reported: list[Any],
) -> None:
    class Leaving(WebSocketHandler):
        async def on_close(self) -> None:
            await self.broadcast("room", "has left")

    fickle.is_down = True
    async with Peer(Leaving) as peer:
        peer.leave()
        await peer.ended()
    assert reported == []


async def test_a_dropped_message_ends_no_sleep_loop_and_is_no_error_of_a_task(
    settings: Settings, reported: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    settings.WS_SEND_BUFFER = 1
    errors: list[Any] = []

    class Dropping(WebSocketHandler):
        send_overflow = "drop_newest"
        beats = 0

        async def on_open(self) -> None:
            self.start_task("beats", self.sleep_loop(self.beat, 0.001))

        async def beat(self) -> None:
            self.beats += 1
            await self.send(self.beats)

        def on_task_error(self, error: BaseException) -> None:
            errors.append(error)

    async with Peer(Dropping) as peer:
        peer.block()
        handler: Any = peer.handler
        handler.send("in flight")
        await until(lambda: handler.beats > 3)
        task = handler.start_task("one", handler.beat)
        await asyncio.wait([task])
        assert "beats" in handler.tasks
    assert errors == []
    assert reported == []
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.django_db(transaction=True)
async def test_broadcast_on_commit_in_async_code_names_the_cure() -> None:
    with pytest.raises(SynchronousOnlyOperation, match=r"await sync_to_async\(function\)\(\)"):
        broadcast_on_commit("room", 1)


async def test_a_close_of_a_client_that_does_not_read_takes_no_thread_for_long(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, reported: list[Any]
) -> None:
    monkeypatch.setattr(any_thread, "_may_wait", lambda: 0)
    settings.WS_SEND_TIMEOUT = 600.0
    gone_on = threading.Event()

    class Handler(WebSocketHandler):
        def on_message(self, message: Any) -> None:
            try:
                self.close()
            finally:
                gone_on.set()

    async with Peer(Handler) as peer:
        peer.block()
        peer.handler.send("in flight")
        peer.say("1")
        assert await asyncio.to_thread(gone_on.wait, 20)
        peer.unblock()
        await peer.ended()
    assert reported == []


async def test_a_task_whose_client_does_not_read_ends_the_connection(
    settings: Settings, reported: list[Any]
) -> None:
    settings.WS_SEND_TIMEOUT = 0.05
    async with Peer(WebSocketHandler) as peer:
        peer.block()
        peer.handler.send("in flight")
        peer.handler.start_task("sends", sync_to_async(peer.handler.send), args=["2"])
        await peer.ended()
        assert peer.handler.close_code == 1013
    assert reported == []


async def test_a_task_whose_broadcast_fails_is_told_in_one_line(
    fickle: type[FickleBackend],  # noqa: F811
    reported: list[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors: list[BaseException] = []

    class Handler(WebSocketHandler):
        def on_task_error(self, error: BaseException) -> None:
            errors.append(error)

    fickle.is_down = True
    async with Peer(Handler) as peer:

        async def tells() -> None:
            await peer.handler.broadcast("room", 1)

        for number in range(3):
            peer.handler.start_task(f"task {number}", tells)
        await until(lambda: len(errors) == 3)
        assert peer.handler.connected
    assert {type(error) for error in errors} == {BroadcastError}
    assert reported == []
    lines = [record for record in caplog.records if record.name == "django.ws.request"]
    assert [line.exc_info for line in lines] == [None] * 3


def test_a_forked_child_counts_its_own_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(any_thread, "_lock", threading.Lock())
    monkeypatch.setattr(any_thread, "_waiting_for_clients", 5)
    any_thread._lock.acquire()
    any_thread._after_fork()
    assert not any_thread._lock.locked()
    assert any_thread._waiting_for_clients == 0
