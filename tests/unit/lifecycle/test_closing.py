"""Closing from both sides: codes, reasons, state, and calls that come twice or late."""

import asyncio
from typing import Any

import pytest
from pytest_django import Settings

from django_ws import CloseCode, ConnectionClosed, WebSocketHandler
from tests.support.asgi_peer import Peer, client, until
from tests.support.handlers import Quiet


class Telling(WebSocketHandler):
    """Tells what ``on_close`` sees."""

    ends: list[tuple[int | None, str]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.ends = []

    async def on_close(self) -> None:
        self.ends.append((self.close_code, self.close_reason))


async def test_close_sends_code_and_reason() -> None:
    async with Peer(Quiet) as peer:
        await peer.handler.close(4001, "enough")
        assert peer.closes == [(4001, "enough")]


async def test_close_without_arguments_is_1000() -> None:
    async with Peer(Quiet) as peer:
        await peer.handler.close()
        assert peer.closes == [(1000, "")]


async def test_close_need_not_be_awaited() -> None:
    async with Peer(Quiet) as peer:
        peer.handler.close(4001)
        assert peer.closes == [(4001, "")]


async def test_awaiting_close_waits_until_the_server_has_taken_it() -> None:
    async with Peer(Quiet) as peer:
        peer.block()
        peer.handler.send(1)
        closing = asyncio.ensure_future(peer.handler.close(4001))
        await asyncio.sleep(0)
        assert not closing.done()
        peer.unblock()
        await closing
        assert peer.closes == [(4001, "")]


async def test_what_was_sent_before_the_close_goes_out_before_it() -> None:
    async with Peer(Quiet) as peer:
        peer.block()
        for number in range(3):
            peer.handler.send(number)
        closing = peer.handler.close()
        peer.unblock()
        await closing
        assert [event["type"] for event in peer.sent] == [
            "websocket.accept", *["websocket.send"] * 3, "websocket.close",
        ]  # fmt: skip


@pytest.mark.parametrize("blocked", [False, True])
async def test_the_first_close_counts(blocked: bool) -> None:
    async with Peer(Quiet) as peer:
        if blocked:
            peer.block()
            peer.handler.send(1)
        calls = [peer.handler.close(4001, "first"), peer.handler.close(4002, "second")]
        peer.unblock()
        await asyncio.gather(*calls)
        await peer.handler.close(4003)
        await peer.ended()
        assert peer.closes == [(4001, "first")]


async def test_closing_after_the_client_has_left_does_nothing() -> None:
    class Slow(WebSocketHandler):
        async def on_close(self) -> None:
            await self.close(4001)

    async with Peer(Slow) as peer:
        handler = peer.handler
        peer.leave(code=1001)
        await peer.ended()
        await handler.close(4002)
        assert peer.closes == []
        assert handler.close_code == 1001


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, -1])
async def test_a_code_that_may_not_be_sent_is_a_value_error(code: int) -> None:
    async with Peer(Quiet) as peer:
        with pytest.raises(ValueError, match=str(code)):
            peer.handler.close(code)
        assert peer.handler.connected


@pytest.mark.parametrize("code", [1000, 1003, 1007, 1014, 3000, 4999, CloseCode.FORBIDDEN])
async def test_a_code_that_may_be_sent(code: int) -> None:
    async with Peer(Quiet) as peer:
        await peer.handler.close(code)
        assert peer.closes == [(code, "")]
        assert type(peer.sent[-1]["code"]) is int


@pytest.mark.parametrize(
    ("reason", "sent"),
    [
        ("x" * 123, "x" * 123),
        ("x" * 124, "x" * 123),
        ("é" * 62, "é" * 61),
        ("x" * 120 + "\U0001f600", "x" * 120),
        ("\ud800", "?"),
    ],
    ids=["123 bytes", "124 bytes", "two bytes each", "four bytes at the end", "lone surrogate"],
)
async def test_a_reason_is_cut_at_123_bytes_of_utf8(reason: str, sent: str) -> None:
    async with Peer(Quiet) as peer:
        await peer.handler.close(4000, reason)
        assert peer.closes == [(4000, sent)]


# --- state ------------------------------------------------------------------------------------


async def test_the_state_along_a_whole_life() -> None:
    states: list[tuple[str, bool, bool, int | None]] = []

    class Stateful(WebSocketHandler):
        def note(self, name: str) -> None:
            states.append((name, self.connected, self.closed, self.close_code))

        async def on_connect(self) -> None:
            self.note("on_connect")

        async def on_open(self) -> None:
            self.note("on_open")

        async def on_close(self) -> None:
            self.note("on_close")

    async with client(Stateful) as ws:
        await ws.close(1001)
    assert states == [
        ("on_connect", False, False, None),
        ("on_open", True, False, None),
        ("on_close", False, True, 1001),
    ]


async def test_closed_is_true_as_soon_as_close_was_called() -> None:
    async with Peer(Quiet) as peer:
        peer.handler.close(4000, "why")
        handler = peer.handler
        assert (handler.connected, handler.closed) == (False, True)
        assert (handler.close_code, handler.close_reason) == (4000, "why")


@pytest.mark.parametrize(
    ("event", "code", "reason"),
    [
        ({"code": 1001, "reason": "bye"}, 1001, "bye"),
        ({"code": 4321}, 4321, ""),
        ({"code": 1005, "reason": ""}, 1005, ""),
        ({"code": 1005, "reason": None}, 1005, ""),
        ({"code": 1005}, 1006, ""),
        ({"code": 1006, "reason": ""}, 1006, ""),
        ({"reason": ""}, 1005, ""),
        ({}, 1006, ""),
    ],
    ids=str,
)
async def test_what_on_close_knows_of_the_clients_end(
    event: dict[str, Any], code: int, reason: str
) -> None:
    class Handler(Telling):
        pass

    async with Peer(Handler) as peer:
        peer.leave(**event)
        await peer.ended()
        assert Handler.ends == [(code, reason)]


async def test_on_close_knows_the_servers_own_close() -> None:
    class Handler(Telling):
        pass

    async with Peer(Handler) as peer:
        await peer.handler.close(4000, "why")
        await peer.ended()
        assert Handler.ends == [(4000, "why")]


async def test_on_close_runs_without_waiting_for_the_clients_answer() -> None:
    """No disconnect event follows in this test: a client may never answer a close."""

    class Handler(Telling):
        async def on_message(self, message: Any) -> None:
            await self.close(4000)

    async with Peer(Handler) as peer:
        peer.say("null")
        await peer.ended()
        assert Handler.ends == [(4000, "")]


# --- where it is called -----------------------------------------------------------------------


@pytest.mark.parametrize("hook", ["on_open", "on_message"])
@pytest.mark.parametrize("awaited", [False, True], ids=["not awaited", "awaited"])
async def test_close_in(hook: str, awaited: bool) -> None:
    class Handler(Telling):
        async def end(self, *args: Any) -> None:
            closing = self.close(4000)
            if awaited:
                await closing

    setattr(Handler, hook, Handler.end)

    class Built(Handler):
        pass

    async with Peer(Built) as peer:
        peer.say("null")
        await peer.ended()
        assert peer.closes == [(4000, "")]
        assert Built.ends == [(4000, "")]


async def test_no_message_is_handled_after_close() -> None:
    handled: list[Any] = []

    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            handled.append(message)
            self.close()

    async with Peer(Handler) as peer:
        peer.say("1", "2")
        await peer.ended()
        assert handled == [1]


async def test_close_before_the_accept_refuses_with_403() -> None:
    class Handler(Telling):
        async def on_connect(self) -> None:
            await self.close(4000)

    async with Peer(Handler, opens=False, extensions={"websocket.http.response": {}}) as peer:
        await peer.ended()
        assert peer.sent[0]["status"] == 403
        assert Handler.ends == []


async def test_close_in_a_sync_hook() -> None:
    class Handler(WebSocketHandler):
        def on_message(self, message: Any) -> None:
            self.close(4000, "from a thread")

    async with client(Handler) as ws:
        await ws.send(None)
        assert await ws.wait_closed() == 4000


async def test_close_in_a_background_task_ends_the_handler() -> None:
    class Handler(Telling):
        async def on_open(self) -> None:
            self.start_task("ending", self.end)

        async def end(self) -> None:
            await self.close(4000)

    async with client(Handler) as ws:
        assert await ws.wait_closed() == 4000
    assert Handler.ends == [(4000, "")]


async def test_close_of_another_connections_handler_ends_that_one() -> None:
    async with Peer(Quiet) as peer:
        await peer.handler.close(4403)
        await peer.ended()
        assert peer.closes == [(4403, "")]


async def test_send_in_on_close_raises_connection_closed_quietly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caught: list[Exception] = []

    class Handler(WebSocketHandler):
        async def on_close(self) -> None:
            try:
                await self.send(1)
            except ConnectionClosed as error:
                caught.append(error)
                raise

    async with client(Handler):
        pass
    assert len(caught) == 1
    assert caplog.records == []


async def test_a_close_that_the_server_refuses_is_told_to_who_awaits_it() -> None:
    async with Peer(Quiet) as peer:
        peer.send_error = OSError()
        with pytest.raises(ConnectionClosed):
            await peer.handler.close()


async def test_a_close_that_the_server_refuses_ends_the_handler_all_the_same() -> None:
    class Handler(Telling):
        pass

    async with Peer(Handler) as peer:
        peer.send_error = OSError()
        peer.handler.close(4000)
        await peer.ended()
        assert Handler.ends == [(4000, "")]


async def test_a_close_that_the_server_does_not_take_is_given_up_after_ws_close_timeout(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.WS_CLOSE_TIMEOUT = 0.02
    async with Peer(Quiet) as peer:
        peer.block()
        peer.handler.send(1)
        peer.handler.close()
        await peer.ended()
        assert any("left behind: django_ws outbound" in line for line in caplog.messages)


async def test_a_handler_that_closes_is_not_ended_twice() -> None:
    class Handler(Telling):
        async def on_message(self, message: Any) -> None:
            self.close(4000)
            peer.leave(code=1001)
            await asyncio.sleep(0)

    async with Peer(Handler) as peer:
        peer.say("null")
        await peer.ended()
        assert Handler.ends == [(4000, "")]


async def test_the_client_is_told_first_when_both_close() -> None:
    async with Peer(Quiet) as peer:
        peer.leave(code=1001)
        await until(lambda: peer.received == 2)
        await peer.ended()
        assert peer.closes == []
