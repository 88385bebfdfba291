"""Clients that say nothing for too long."""

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_ws import WebSocketHandler
from django_ws.limits.message_limits import MessageLimits
from django_ws.testing import HandshakeRejected
from tests.support.asgi_peer import SECONDS, Peer, client, turns, until

IDLE = 0.05
EARLY = 0.005  # what the clock of a loop may be ahead


class Idle(WebSocketHandler):
    """Notes when something happened: ``at`` holds the loop's time by name."""

    idle_timeout: float | None = IDLE
    at: dict[str, float]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.at = {}

    def note(self, name: str) -> None:
        self.at[name] = asyncio.get_running_loop().time()

    async def on_open(self) -> None:
        self.note("open")

    async def on_message(self, message: Any) -> None:
        self.note("message")

    async def on_close(self) -> None:
        self.note("close")


@asynccontextmanager
async def said(handler_class: Any, *messages: str | bytes) -> AsyncIterator[Peer]:
    """A peer whose first messages are there before it opens: however slow the machine is, the
    client was not idle.
    """
    peer = Peer(handler_class, opens=False)
    async with peer:  # the application has not begun yet
        for message in messages:
            kind = "text" if isinstance(message, str) else "bytes"
            peer.feed({"type": "websocket.receive", kind: message})
        yield peer


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How many seconds each timer was set for."""
    seconds: list[float] = []
    look_in = MessageLimits._look_in

    def noting(self: MessageLimits, for_seconds: float) -> None:
        seconds.append(for_seconds)
        look_in(self, for_seconds)

    monkeypatch.setattr(MessageLimits, "_look_in", noting)
    return seconds


async def test_a_client_that_says_nothing_is_closed_with_4408(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "django.ws.request")

    class Handler(Idle):
        pass

    async with client(Handler) as ws:
        assert await ws.wait_closed() == 4408
        assert ws.close_reason == "no message for 0.05 s"
    assert Handler.at["close"] - Handler.at["open"] >= IDLE - EARLY
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("INFO", "WebSocket /ws/: no message for 0.05 s: closed with 4408")
    ]


async def test_the_time_counts_from_the_last_message() -> None:
    class Handler(Idle):
        idle_timeout = 1.0

    async with Peer(Handler) as peer:
        await asyncio.sleep(0.2)  # the message comes 0.8 s before the end
        peer.say("1")
        await peer.ended()
    assert Handler.at["close"] - Handler.at["message"] >= 1.0 - EARLY


async def test_a_running_hook_is_not_idleness(timers: list[float]) -> None:
    go_on = asyncio.Event()

    class Handler(Idle):
        async def on_message(self, message: Any) -> None:
            await go_on.wait()
            self.note("message")

    async with said(Handler, "1") as peer:
        await until(lambda: len(timers) >= 4)  # it has looked three times meanwhile
        assert peer.handler.connected
        go_on.set()
        await peer.ended()
        assert peer.closes == [(4408, "no message for 0.05 s")]
    assert Handler.at["close"] - Handler.at["message"] >= IDLE - EARLY


@pytest.mark.parametrize("hook", ["on_open", "on_bytes", "on_decode_error", "on_rate_limited"])
async def test_no_other_hook_is_idleness_either(hook: str, timers: list[float]) -> None:
    go_on = asyncio.Event()
    handlers: list[Any] = []

    async def waiting(self: Any, *args: Any) -> None:
        handlers.append(self)
        await go_on.wait()
        self.note("hook")

    attributes = {hook: waiting, "rate_limit": "1/h" if hook == "on_rate_limited" else None}
    handler_class: Any = type("Handler", (Idle,), attributes)
    messages: dict[str, list[Any]] = {
        "on_open": [], "on_bytes": [b"1"], "on_decode_error": ["{"], "on_rate_limited": ["1", "2"],
    }  # fmt: skip
    async with said(handler_class, *messages[hook]) as peer:
        await until(lambda: handlers)
        if hook == "on_open":
            assert timers == []  # the time begins when it has returned
        else:
            await until(lambda: len(timers) >= 3)
        assert peer.handler.connected
        go_on.set()
        await peer.ended()
        assert peer.closes == [(4408, "no message for 0.05 s")]
    assert handler_class.at["close"] - handler_class.at["hook"] >= IDLE - EARLY


async def test_messages_set_no_timers(timers: list[float]) -> None:
    class Handler(Idle):
        idle_timeout = 3600
        handled = 0

        async def on_message(self, message: Any) -> None:
            type(self).handled += 1

    async with Peer(Handler) as peer:
        peer.say(*["1"] * 200)
        await until(lambda: Handler.handled == 200)
    assert timers == [3600.0]


async def test_what_the_server_sends_does_not_count() -> None:
    class Handler(Idle):
        async def on_open(self) -> None:
            self.start_task("talks", self.sleep_loop, args=(self.talk, 0.01))

        async def talk(self) -> None:
            await self.send("hello")

    async with client(Handler) as ws:
        assert await ws.wait_closed() == 4408


async def test_without_idle_timeout_there_is_no_timer(timers: list[float]) -> None:
    class Handler(Idle):
        idle_timeout = None
        rate_limit = "1/s"

    async with Peer(Handler) as peer:
        peer.say("1")
        await until(lambda: "message" in Handler.at)
    assert timers == []


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("ends", ["client", "server", "idle"])
async def test_nothing_of_a_closed_connection_stays_for_the_timer(ends: str) -> None:
    class Handler(WebSocketHandler):
        idle_timeout = IDLE if ends == "idle" else 3600

        async def on_message(self, message: Any) -> None:
            await self.close()

    references: list[weakref.ref[Any]] = []

    async def live() -> None:
        async with Peer(Handler) as peer:
            references.append(weakref.ref(peer.handler))
            references.append(weakref.ref(peer.handler._connection))
            await turns()
            if ends == "server":
                peer.say("1")
            elif ends == "client":
                peer.leave(code=1000)
            await peer.ended()

    with without_garbage_collection():
        task = asyncio.create_task(live())
        await asyncio.wait_for(task, SECONDS)
        del task
        await turns()
        assert [reference() for reference in references] == [None, None]


async def test_the_timer_ends_when_a_hook_outlives_the_connection(timers: list[float]) -> None:
    go_on = asyncio.Event()

    class Handler(Idle):
        async def on_message(self, message: Any) -> None:
            self.note("message")
            await go_on.wait()

    async with said(Handler, "1") as peer:
        await until(lambda: "message" in Handler.at)
        handler = peer.handler
        handler.close()
        assert timers == [IDLE]
        looked: list[None] = []
        asyncio.get_running_loop().call_later(2 * IDLE, looked.append, None)
        await until(lambda: looked)
        assert timers == [IDLE]  # it has looked once, and not again
        go_on.set()
        await peer.ended()


@pytest.mark.parametrize("value", [0, -1, "60", True, float("nan"), float("inf")])
async def test_a_wrong_value_refuses_the_handshake_and_names_the_class(
    value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Handler(WebSocketHandler):
        idle_timeout = value

    with pytest.raises(HandshakeRejected) as refused:
        async with client(Handler):
            pass
    assert refused.value.status == 500
    assert isinstance(refused.value.__cause__, ImproperlyConfigured)
    assert "Handler.idle_timeout: " in str(refused.value.__cause__)
    assert caplog.records[0].levelname == "ERROR"
