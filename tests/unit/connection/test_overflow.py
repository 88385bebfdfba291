"""The outbound buffer: what it counts, and what happens when it is full."""

import asyncio
import logging
from typing import Any

import pytest
from pytest_django import Settings

from django_ws import ConnectionClosed, WebSocketHandler
from django_ws.exceptions import MessageDropped
from tests.support.asgi_peer import Peer, until

LOG = "django.ws.request"


class Closing(WebSocketHandler):
    pass


class Oldest(WebSocketHandler):
    send_overflow = "drop_oldest"


class Newest(WebSocketHandler):
    send_overflow = "drop_newest"


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.message
        for record in caplog.records
        if record.name == LOG and record.levelno >= logging.WARNING
    ]


@pytest.mark.parametrize(("text", "size"), [("a" * 10, 10), ("é" * 5, 10)], ids=["ASCII", "UTF-8"])
@pytest.mark.parametrize("spare", [0, -1], ids=["fits", "one byte too many"])
async def test_each_waiting_message_counts_its_bytes_and_100(
    settings: Settings, text: str, size: int, spare: int
) -> None:
    settings.WS_SEND_BUFFER = 3 * (size + 100) + spare
    async with Peer(Newest) as peer:
        peer.block()
        for _ in range(3):
            peer.handler.send_text(text)
        assert peer.handler.dropped == (0 if spare == 0 else 1)


async def test_binary_messages_count_their_bytes(settings: Settings) -> None:
    settings.WS_SEND_BUFFER = 220
    async with Peer(Newest) as peer:
        peer.block()
        peer.handler.send_bytes(b"\xff" * 10)
        peer.handler.send_bytes(b"\xff" * 10)
        assert peer.handler.dropped == 0
        peer.handler.send_bytes(b"")
        assert peer.handler.dropped == 1


@pytest.mark.parametrize("handler_class", [Closing, Oldest, Newest])
async def test_one_message_is_always_taken_when_the_buffer_is_empty(
    settings: Settings, handler_class: type[WebSocketHandler]
) -> None:
    settings.WS_SEND_BUFFER = 1
    async with Peer(handler_class) as peer:
        peer.block()
        sending = peer.handler.send("large")
        peer.unblock()
        await sending
        assert peer.texts == ['"large"']


async def test_what_the_server_has_taken_makes_room(settings: Settings) -> None:
    settings.WS_SEND_BUFFER = 300
    async with Peer(Newest) as peer:
        for number in range(4):
            peer.block()
            sending = [peer.handler.send(number), peer.handler.send(number)]
            peer.unblock()
            await asyncio.gather(*sending)
        assert peer.handler.dropped == 0
        assert len(peer.texts) == 8


# --- drop_newest ------------------------------------------------------------------------------


async def test_drop_newest_drops_what_is_sent(settings: Settings) -> None:
    settings.WS_SEND_BUFFER = 202
    async with Peer(Newest) as peer:
        peer.block()
        kept = [peer.handler.send(1), peer.handler.send(2)]
        with pytest.raises(MessageDropped):
            await peer.handler.send(3)
        peer.unblock()
        await asyncio.gather(*kept)
        assert peer.texts == ["1", "2"]


# --- drop_oldest ------------------------------------------------------------------------------


async def test_drop_oldest_drops_what_has_waited_longest_but_not_what_is_half_sent(
    settings: Settings,
) -> None:
    settings.WS_SEND_BUFFER = 303
    async with Peer(Oldest) as peer:
        peer.block()
        sending = [peer.handler.send(number) for number in range(5)]
        peer.unblock()
        outcomes = await asyncio.gather(*sending, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [
            type(None), MessageDropped, MessageDropped, type(None), type(None),
        ]  # fmt: skip
        assert peer.texts == ["0", "3", "4"]


async def test_drop_oldest_drops_as_many_as_it_takes(settings: Settings) -> None:
    settings.WS_SEND_BUFFER = 500
    async with Peer(Oldest) as peer:
        peer.block()
        for number in range(4):
            peer.handler.send(number)
        last = peer.handler.send_text("x" * 250)
        assert peer.handler.dropped == 3
        peer.unblock()
        await last
        assert peer.texts == ["0", "x" * 250]


async def test_drop_oldest_drops_the_new_one_where_only_the_half_sent_one_is_left(
    settings: Settings,
) -> None:
    settings.WS_SEND_BUFFER = 150
    async with Peer(Oldest) as peer:
        peer.block()
        first = peer.handler.send(1)
        with pytest.raises(MessageDropped):
            await peer.handler.send(2)
        peer.unblock()
        await first
        assert peer.texts == ["1"]


# --- both -------------------------------------------------------------------------------------


@pytest.mark.parametrize("handler_class", [Oldest, Newest])
async def test_drops_are_counted_and_warned_about_once_in_10_s_for_each_connection(
    settings: Settings,
    handler_class: type[WebSocketHandler],
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings.WS_SEND_BUFFER = 250
    async with Peer(handler_class) as peer:
        peer.block()
        for number in range(12):
            peer.handler.send(number)
        assert peer.handler.dropped == 10
        assert len(warnings_in(caplog)) == 1


@pytest.mark.parametrize("handler_class", [Oldest, Newest])
async def test_the_warning_names_path_count_and_policy(
    settings: Settings,
    handler_class: type[WebSocketHandler],
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings.WS_SEND_BUFFER = 250
    async with Peer(handler_class) as peer:
        peer.block()
        for number in range(3):
            peer.handler.send(number)
        (line,) = warnings_in(caplog)
        for part in ("/ws/", "messages dropped so far: 1", repr(handler_class.send_overflow)):
            assert part in line


@pytest.mark.parametrize("handler_class", [Oldest, Newest])
async def test_drops_are_warned_about_again_later(
    settings: Settings,
    handler_class: type[WebSocketHandler],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("django_ws.logs.throttled.SECONDS", 0.0)
    settings.WS_SEND_BUFFER = 250
    async with Peer(handler_class) as peer:
        peer.block()
        for number in range(4):
            peer.handler.send(number)
        assert len(warnings_in(caplog)) == 2


@pytest.mark.parametrize("handler_class", [Oldest, Newest])
async def test_the_connection_goes_on_after_drops(
    settings: Settings, handler_class: type[WebSocketHandler]
) -> None:
    settings.WS_SEND_BUFFER = 150
    async with Peer(handler_class) as peer:
        peer.block()
        first = peer.handler.send(0)
        peer.handler.send(1)
        peer.unblock()
        await first
        await peer.handler.send("after")
        assert peer.texts[-1] == '"after"'


# --- close ------------------------------------------------------------------------------------


async def test_by_default_an_overflow_ends_the_handler_with_1013(
    settings: Settings,
) -> None:
    closed: list[int | None] = []

    class Telling(WebSocketHandler):
        async def on_close(self) -> None:
            closed.append(self.close_code)

    settings.WS_SEND_BUFFER = 150
    async with Peer(Telling) as peer:
        peer.block()
        peer.handler.send(1)
        peer.handler.send(2)
        await peer.ended()  # though the server still blocks
        assert closed == [1013]


async def test_an_overflow_drops_and_counts_what_waits(settings: Settings) -> None:
    settings.WS_SEND_BUFFER = 250
    async with Peer(Closing) as peer:
        handler = peer.handler
        peer.block()
        sending = [handler.send(number) for number in range(3)]
        for waiting in sending:
            with pytest.raises(ConnectionClosed) as caught:
                await waiting
            assert caught.value.code == 1013
        assert handler.dropped == 3


async def test_an_overflow_is_warned_about_once_with_the_cure(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.WS_SEND_BUFFER = 150
    async with Peer(Closing) as peer:
        peer.block()
        for number in range(5):
            peer.handler.send(number)
        (line,) = warnings_in(caplog)
        assert "WS_SEND_BUFFER" in line
        assert "send_overflow" in line


async def test_a_close_frame_is_never_refused_a_place(settings: Settings) -> None:
    settings.WS_SEND_BUFFER = 101
    async with Peer(Newest) as peer:
        peer.block()
        peer.handler.send(1)
        closing = peer.handler.close(4000, "full")
        peer.unblock()
        await closing
        assert peer.closes == [(4000, "full")]


async def test_messages_of_a_hook_that_overflows_the_buffer_reach_connection_closed(
    settings: Settings,
) -> None:
    caught: list[Exception] = []

    class Flooding(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            peer.block()
            self.send(1)
            try:
                await self.send(2)
            except ConnectionClosed as error:
                caught.append(error)
                raise

    settings.WS_SEND_BUFFER = 150
    async with Peer(Flooding) as peer:
        peer.say("null")
        await peer.ended()
        assert [str(error) for error in caught] == [
            "the connection is closed (1013: the client reads too slowly)"
        ]


async def test_a_dropped_message_ends_the_hook_and_not_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            if message == "drop":
                raise MessageDropped
            await self.send(message)

    async with Peer(Handler) as peer:
        peer.say('"drop"', '"next"')
        await until(lambda: peer.texts == ['"next"'])
    assert caplog.records == []
