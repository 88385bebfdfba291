"""How many messages a client may send: exact counting, and what becomes of the rest."""

import asyncio
import logging
from typing import Any, Literal

import pytest
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from django_ws import WebSocketHandler
from django_ws.codecs import JSONCodec
from django_ws.conf.rate import NANOSECONDS, Rate, parse_rate
from django_ws.limits.token_bucket import TokenBucket
from django_ws.logs import throttled
from django_ws.testing import HandshakeRejected
from tests.support.asgi_peer import Peer, client, the_handler, turns, until

SECOND = NANOSECONDS["s"]
DAY = 86400 * SECOND


# --- the form -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count", "seconds"),
    [("20/s", 20, 1), ("1/s", 1, 1), ("600/m", 600, 60), ("999999999/h", 999_999_999, 3600)],
)
def test_a_rate_is_read(text: str, count: int, seconds: int) -> None:
    assert parse_rate(text) == Rate(count, seconds * SECOND)


def test_false_is_no_limit() -> None:
    assert parse_rate(False) is None


WRONG = [
    "", "20", "20/", "/s", "0/s", "-1/s", "+1/s", "20/d", "20/sec", "20 / s", " 20/s", "20/s\n",
    "1.5/s", "1e3/s", "020/s", "1_000/s", "\u0662/s", "20/S", "1234567890/s", 20, 1.5, True,
    ("20", "s"), b"20/s", object,
]  # fmt: skip


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_what_is_no_rate_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="is not a rate") as caught:
        parse_rate(value)
    assert repr(value) in str(caught.value)


# --- the bucket ---------------------------------------------------------------------------------


class Clock:
    def __init__(self, now: int = 12_345_678_901) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def taken(bucket: TokenBucket, tries: int) -> int:
    return sum(bucket.take() for _ in range(tries))


def test_as_many_as_the_rate_may_come_at_once() -> None:
    bucket = TokenBucket(Rate(20, SECOND), Clock())
    assert taken(bucket, 100) == 20


def test_a_token_comes_back_exactly_when_its_part_of_the_period_is_over() -> None:
    clock = Clock()
    bucket = TokenBucket(Rate(20, SECOND), clock)
    assert taken(bucket, 20) == 20
    clock.now += SECOND // 20 - 1
    assert not bucket.take()
    clock.now += 1
    assert bucket.take()
    assert not bucket.take()


def test_tries_in_vain_take_nothing() -> None:
    clock = Clock()
    bucket = TokenBucket(Rate(10, SECOND), clock)
    assert taken(bucket, 1000) == 10
    clock.now += SECOND
    assert taken(bucket, 1000) == 10


def test_a_long_pause_gives_no_more_than_one_bucket() -> None:
    clock = Clock()
    bucket = TokenBucket(Rate(10, SECOND), clock)
    assert taken(bucket, 5) == 5
    clock.now += 30 * DAY
    assert taken(bucket, 1000) == 10


@pytest.mark.parametrize(("count", "period"), [(7, SECOND), (3, 60 * SECOND), (13, 3600 * SECOND)])
def test_not_one_message_is_lost_or_won_in_thousands_of_periods(count: int, period: int) -> None:
    """None of these numbers divides the period: a rounded interval would drift."""
    clock = Clock(now=30 * 365 * DAY)
    bucket = TokenBucket(Rate(count, period), clock)
    assert taken(bucket, count) == count
    step = period * (count - 1) // count - 1  # the bucket is never full, so no token is lost
    got = 0
    for _ in range(5_000):
        clock.now += step
        got += taken(bucket, count)
    assert got == 5_000 * step * count // period


@given(
    rate=st.builds(Rate, st.integers(1, 50), st.sampled_from(list(NANOSECONDS.values()))),
    pauses=st.lists(st.integers(0, 10**10), max_size=60),
)
def test_no_window_of_time_ever_lets_through_more_than_a_burst_and_its_rate(
    rate: Rate, pauses: list[int]
) -> None:
    clock = Clock()
    bucket = TokenBucket(rate, clock)
    times: list[int] = []
    for pause in pauses:
        clock.now += pause
        times += [clock.now] * taken(bucket, 3)
    for first, start in enumerate(times):
        for last in range(first, len(times)):
            allowed = rate.count + (times[last] - start) * rate.count // rate.period
            assert last - first + 1 <= allowed


# --- in a connection ----------------------------------------------------------------------------


class Counting(WebSocketHandler):
    """Notes what it handles, and each message over the limit, without closing."""

    rate_limit: str | Literal[False] | None = "3/h"
    handled: list[Any]
    over: int

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.handled, cls.over = [], 0

    async def on_message(self, message: Any) -> None:
        self.handled.append(message)

    async def on_rate_limited(self) -> None:
        type(self).over += 1


async def test_too_many_messages_close_with_4429(caplog: pytest.LogCaptureFixture) -> None:
    class Handler(WebSocketHandler):
        rate_limit = "3/h"

        async def on_message(self, message: Any) -> None:
            await self.send(message)

    async with client(Handler) as ws:
        for number in range(5):
            await ws.send(number)
        assert [await ws.receive() for _ in range(3)] == [0, 1, 2]
        assert await ws.wait_closed() == 4429
        assert ws.close_reason == "too many messages"
    [record] = caplog.records
    assert (record.levelname, "1 not handled so far" in record.message) == ("WARNING", True)


async def test_messages_over_the_limit_are_not_handled_but_counted_and_told_to_the_hook() -> None:
    class Handler(Counting):
        pass

    async with Peer(Handler) as peer:
        peer.say(*"123456")
        await until(lambda: Handler.over == 3)
        await turns()
        assert Handler.handled == [1, 2, 3]
        assert peer.handler.rate_limited == 3
        assert peer.handler.connected


async def test_a_sync_hook_decides_too() -> None:
    class Handler(WebSocketHandler):
        rate_limit = "1/h"

        def on_rate_limited(self) -> None:
            self.close(4000, f"{self.rate_limited} too many")

    async with client(Handler) as ws:
        await ws.send(1)
        await ws.send(2)
        assert await ws.wait_closed() == 4000
        assert ws.close_reason == "1 too many"


async def test_the_log_tells_of_a_flood_once(caplog: pytest.LogCaptureFixture) -> None:
    class Handler(Counting):
        pass

    async with Peer(Handler) as peer:
        peer.say(*["1"] * 100)
        await until(lambda: Handler.over == 97)
    assert len(caplog.records) == 1


async def test_the_log_tells_of_it_again_after_ten_seconds_with_the_count(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Handler(Counting):
        pass

    monkeypatch.setattr(throttled, "SECONDS", 0.0)
    async with Peer(Handler) as peer:
        peer.say(*"12345")
        await until(lambda: Handler.over == 2)
    assert ["1 not handled" in caplog.messages[0], "2 not handled" in caplog.messages[1]] == [
        True,
        True,
    ]


async def test_a_message_over_the_limit_is_not_even_decoded() -> None:
    class Decoding(JSONCodec):
        decoded = 0

        def decode(self, data: str | bytes) -> Any:
            type(self).decoded += 1
            return super().decode(data)

    class Handler(Counting):
        rate_limit = "1/h"
        codec = Decoding()

    async with Peer(Handler) as peer:
        peer.say("1", "{", "2")
        await until(lambda: Handler.over == 2)
    assert Decoding.decoded == 1


async def test_binary_messages_count_as_text_does() -> None:
    class Handler(Counting):
        async def on_bytes(self, data: bytes) -> None:
            self.handled.append(data)

    async with Peer(Handler) as peer:
        peer.say("1")
        for data in (b"a", b"b", b"c", b"d"):
            peer.feed({"type": "websocket.receive", "bytes": data})
        await until(lambda: Handler.over == 2)
        assert Handler.handled == [1, b"a", b"b"]


async def test_messages_that_were_read_ahead_count_when_their_turn_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("django_ws.connection.inbound.SWEEP_SECONDS", 0.01)
    go_on = asyncio.Event()

    class Handler(Counting):
        rate_limit = "2/h"

        async def on_message(self, message: Any) -> None:
            await go_on.wait()
            await super().on_message(message)

    async with Peer(Handler) as peer:
        peer.say(*"1234")
        await until(lambda: peer.received == 5)  # with the handshake: all have been read
        assert Handler.over == 0
        go_on.set()
        await until(lambda: Handler.over == 2)
        assert Handler.handled == [1, 2]


async def test_a_closing_client_is_noticed_while_the_hook_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("django_ws.connection.inbound.SWEEP_SECONDS", 0.01)
    ended = asyncio.Event()

    class Handler(WebSocketHandler):
        rate_limit = "1/h"

        async def on_rate_limited(self) -> None:
            await until(lambda: self.closed)
            ended.set()

    async with Peer(Handler) as peer:
        peer.say(*"12")
        peer.leave()
        await until(ended.is_set)


async def test_an_exception_in_the_hook_closes_with_1011(caplog: pytest.LogCaptureFixture) -> None:
    class Handler(WebSocketHandler):
        rate_limit = "1/h"
        closed_with: list[int | None] = []

        async def on_rate_limited(self) -> None:
            raise RuntimeError("raised in on_rate_limited")

        async def on_close(self) -> None:
            self.closed_with.append(self.close_code)

    async with client(Handler) as ws:
        await ws.send(1)
        await ws.send(2)
        assert await ws.wait_closed() == 1011
        assert isinstance(ws.error, RuntimeError)
    assert "exception in on_rate_limited" in caplog.text
    assert Handler.closed_with == [1011]


async def test_a_close_in_the_middle_of_a_flood_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    class Handler(WebSocketHandler):
        rate_limit = "2/h"
        handled: list[Any] = []

        async def on_message(self, message: Any) -> None:
            self.handled.append(message)

    async with Peer(Handler) as peer:
        handler = peer.handler
        peer.say(*["1"] * 500)
        await peer.ended()
        assert peer.closes == [(4429, "too many messages")]
        assert (Handler.handled, handler.rate_limited) == ([1, 1], 1)


# --- whose limit counts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "attribute", "handled"),
    [
        (None, None, 9),
        ("2/h", None, 2),
        ("2/h", "3/h", 3),
        ("2/h", False, 9),
        (None, "3/h", 3),
        (False, None, 9),
    ],
)
async def test_the_setting_counts_where_the_class_says_nothing(
    settings: Settings,
    setting: str | None,
    attribute: str | Literal[False] | None,
    handled: int,
) -> None:
    class Handler(Counting):
        rate_limit = attribute

    settings.WS_RATE_LIMIT = setting
    async with Peer(Handler) as peer:
        peer.say(*"123456789")
        await until(lambda: len(Handler.handled) + Handler.over == 9)
    assert len(Handler.handled) == handled


async def test_a_property_may_give_each_user_a_rate() -> None:
    class Handler(Counting):
        @property
        def rate_limit(self) -> str:  # type: ignore[override]
            return "2/h" if self.request.user.is_anonymous else "1000/s"

    async with Peer(Handler) as peer:
        peer.say(*"1234")
        await until(lambda: Handler.over == 2)


async def test_a_handler_without_a_limit_reads_from_the_server_directly() -> None:
    """Nothing stands between: that is what costs nothing."""

    class Handler(WebSocketHandler):
        pass

    class Limited(WebSocketHandler):
        rate_limit = "3/h"

    found = {}
    for handler_class in (Handler, Limited):
        async with Peer(handler_class) as peer:
            await turns()
            frames = []
            coroutine: Any = peer.task.get_coro()
            while coroutine is not None and hasattr(coroutine, "cr_frame"):
                frames.append(coroutine.cr_code.co_name)
                coroutine = coroutine.cr_await
            found[handler_class] = frames[frames.index("live") + 1 :]
    assert found[Handler][0] == "_receive"
    assert found[Limited][:2] == ["next", "_receive"]


# --- wrong values -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["20", "20/day", 20])
async def test_a_wrong_rate_refuses_the_handshake_and_names_the_class(
    value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Handler(WebSocketHandler):
        rate_limit = value

    with pytest.raises(HandshakeRejected) as refused:
        async with client(Handler):
            pass
    assert refused.value.status == 500
    assert "Handler.rate_limit: " in str(refused.value.__cause__)
    assert repr(value) in str(refused.value.__cause__)
    assert isinstance(refused.value.__cause__, ImproperlyConfigured)
    assert logging.getLevelName(caplog.records[0].levelno) == "ERROR"


async def test_the_count_is_zero_where_nothing_was_too_much() -> None:
    async with client(Counting):
        assert the_handler().rate_limited == 0
