"""One hub under faults: topics not confirmed, bursts, overflow, codecs that fail."""

import asyncio
import json
import time
from collections.abc import Collection, Iterator
from contextlib import AsyncExitStack
from typing import Any, ClassVar

import pytest
from pytest_django import Settings

from django_ws import ConnectionClosed, WebSocketHandler, abroadcast, adisconnect
from django_ws.codecs import BytesCodec, JSONCodec, MessagePackCodec, TextCodec
from django_ws.exceptions import BroadcastError, EncodeError
from django_ws.logs import throttled
from django_ws.pubsub.backends.memory import MemoryBackend
from django_ws.pubsub.envelope import Broadcast, seal
from django_ws.pubsub.hub.registry import close_all, publisher_of, running_hub
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.asgi_peer import PATH, Peer, client, handlers, the_handler, turns, until
from tests.support.fickle import FickleBackend, fickle  # noqa: F401  (a fixture)
from tests.support.handlers import Quiet


class Room(WebSocketHandler):
    topics = ("room",)


# Topics that are not confirmed


class Patchy(FickleBackend):
    """As a cluster: the servers of some topics are away."""

    away: ClassVar[set[str]] = set()

    async def subscribe(self, topics: Collection[str]) -> None:
        self.asked += topics
        while self.away.intersection(topics):  # noqa: ASYNC110  # any test sets it
            await asyncio.sleep(0.001)
        await self._memory.subscribe(topics)

    def is_confirmed(self, topic: str) -> bool:
        return topic not in self.away


@pytest.fixture
def patchy(fickle: type[FickleBackend], settings: Settings) -> Iterator[type[Patchy]]:  # noqa: F811
    settings.WS_BROADCAST = {"default": {"BACKEND": f"{__name__}.Patchy"}}
    Patchy.away.clear()
    yield Patchy
    Patchy.away.clear()


async def test_one_topic_that_is_away_holds_up_no_other(
    patchy: type[Patchy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_ws.pubsub.hub.topic_registry.TOGETHER_SECONDS", 0.01)
    patchy.away.add("dead")
    async with client(Quiet) as ws, WebSocketClient(PATH):
        one, two = handlers
        dead = asyncio.ensure_future(two.subscribe("dead"))  # asked for together
        await one.subscribe("alive")
        await abroadcast("alive", 1)
        assert await ws.receive() == 1
        assert not dead.done()
        patchy.away.clear()
        await dead
        await one.subscribe("dead")
        await abroadcast("dead", 2)
        assert await ws.receive() == 2


async def test_who_joins_while_the_topic_is_away_waits_like_the_first(
    patchy: type[Patchy], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client(Room), WebSocketClient(PATH):
        one, two = handlers
        patchy.away.add("room")
        await one.unsubscribe("room")
        joining = asyncio.ensure_future(one.subscribe("room"))
        await turns()
        assert not joining.done()
        patchy.away.clear()
        await joining
        monkeypatch.setattr("django_ws.pubsub.hub.topic_registry.SUBSCRIBE_SECONDS", 0.02)
        patchy.away.add("room")
        await one.unsubscribe("room")
        with pytest.raises(BroadcastError):
            await one.subscribe("room")
        assert two.subscriptions == {"room"}  # joined before: it stays


async def test_a_room_that_was_made_anew_is_not_confirmed_for_the_old_one(
    patchy: type[Patchy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_ws.pubsub.hub.topic_registry.GRACE_SECONDS", 0.001)

    class Stale(WebSocketHandler):
        pass

    async with client(Stale):
        handler = the_handler()
        await handler.subscribe("before")
        hub = running_hub("default")
        assert hub is not None
        patchy.away.add("a")
        first = asyncio.ensure_future(handler.subscribe("a"))
        await turns()
        await handler.unsubscribe("a")
        await first
        await until(lambda: "a" not in hub.topics)
        asked = len(patchy.made[0].asked)
        second = asyncio.ensure_future(handler.subscribe("a"))
        await until(lambda: len(patchy.made[0].asked) > asked)
        assert not second.done()
        patchy.away.clear()
        await second


# A listener that starts anew


async def test_after_a_restart_the_gap_is_told_when_all_is_confirmed_again(
    patchy: type[Patchy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_ws.pubsub.hub.hub.RESTART_SECONDS", 0.001)

    class Telling(Room):
        async def on_broadcast_gap(self, topics: frozenset[str]) -> None:
            await self.send(sorted(topics))

    async with client(Telling) as ws, WebSocketClient(PATH):
        _, two = handlers
        patchy.away.add("room")
        patchy.made[0].crash()
        await until(lambda: len(patchy.made) == 2 and "room" in patchy.made[1].asked)
        await two.unsubscribe("room")
        joining = asyncio.ensure_future(two.subscribe("room"))
        await turns()
        assert not joining.done()
        await ws.receive_nothing()
        patchy.away.clear()
        assert await ws.receive() == ["room"]
        await joining
        await abroadcast("room", 1)
        assert await ws.receive() == 1
        await ws.receive_nothing()


async def test_a_restart_before_a_topic_was_confirmed(
    patchy: type[Patchy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_ws.pubsub.hub.hub.RESTART_SECONDS", 0.001)
    async with client(Room) as ws:
        patchy.away.add("a")
        joining = asyncio.ensure_future(the_handler().subscribe("a"))
        await until(lambda: "a" in patchy.made[0].asked)
        patchy.made[0].crash()
        await until(lambda: len(patchy.made) == 2 and "a" in patchy.made[1].asked)
        patchy.away.clear()
        await joining
        await abroadcast("a", 1)
        assert await ws.receive() == 1


async def test_a_broadcast_while_the_hub_closes_fails(
    fickle: type[FickleBackend],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closing, may_close = asyncio.Event(), asyncio.Event()
    real = MemoryBackend.close

    async def slow(self: MemoryBackend) -> None:
        closing.set()
        await may_close.wait()
        await real(self)

    async with client(Room):
        monkeypatch.setattr(MemoryBackend, "close", slow)
        shutting_down = asyncio.create_task(close_all())
        await closing.wait()
        with pytest.raises(BroadcastError, match="closed"):
            await abroadcast("room", 1)
        may_close.set()
        await shutting_down


# Bursts


async def test_a_burst_leaves_the_loop_its_turns() -> None:
    """Small rooms, no pause in the stream: what counts is the time, over all broadcasts."""
    held_up: list[float] = []
    events = []

    async with client(Room) as ws:
        hub = running_hub("default")
        assert hub is not None

        def busy(event: Any) -> None:
            time.sleep(0.002)
            events.append(event)

        subscriber = next(iter(hub.topics.members_of("room")))
        subscriber.send = busy
        data = seal(1)
        publisher_of("default").publish([("room", data)] * 50)
        last = time.monotonic()
        while len(events) < 50:
            await asyncio.sleep(0)
            held_up.append(time.monotonic() - last)
            last = time.monotonic()
        assert len(held_up) >= 10  # 100 ms in pieces of 5 ms or little more
        subscriber.send = None
        await ws.close()


# Overflow


class Held(Room):
    """Its hook waits; then it sends on."""

    async def on_open(self) -> None:
        self.may_go_on = asyncio.Event()

    async def on_broadcast(self, topic: str, message: Any) -> None:
        await self.may_go_on.wait()
        await self.send(message)


@pytest.mark.parametrize("policy", ["close", "drop_oldest", "drop_newest"])
async def test_a_full_line_for_the_hook_leaves_the_hook_room_to_send(
    settings: Settings, policy: Any
) -> None:
    settings.WS_SEND_BUFFER = 1000

    class Full(Held):
        send_overflow = policy

    async with client(Full) as ws:
        for number in range(8):  # the first is in the hook, the others fill the buffer
            await abroadcast("room", [number, "x" * 25])
        await turns()
        the_handler().may_go_on.set()
        assert [(await ws.receive())[0] for _ in range(8)] == list(range(8))
        assert the_handler().dropped == 0


async def test_more_than_the_line_for_the_hook_holds(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.WS_SEND_BUFFER = 1000
    async with client(Held) as ws:
        handler = the_handler()
        for number in range(20):
            await abroadcast("room", [number, "x" * 25])
        with pytest.raises(ConnectionClosed):
            await ws.receive()
        assert ws.close_code == 1013
        assert "broadcasts come faster than its hooks handle them" in caplog.text
        assert handler.dropped > 0  # what waited is counted
        handler.may_go_on.set()


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
async def test_a_gap_is_told_whatever_is_dropped(
    fickle: type[FickleBackend],  # noqa: F811
    settings: Settings,
    policy: Any,
) -> None:
    settings.WS_SEND_BUFFER = 1000
    told = []

    class Full(Held):
        send_overflow = policy

        async def on_broadcast_gap(self, topics: frozenset[str]) -> None:
            told.append(topics)

    async with client(Full) as ws:
        await the_handler().subscribe("other")
        for topic in ("room", "other"):
            for number in range(20):
                await abroadcast("room", [number, "x" * 25])
            fickle.made[0].lose(topic)
        for number in range(20):
            await abroadcast("room", [number, "x" * 25])
        await turns()
        the_handler().may_go_on.set()
        await until(lambda: told)
        assert told == [{"room", "other"}]
        assert the_handler().dropped > 40
        await ws.receive()


@pytest.mark.parametrize("method", ["on_message", "on_broadcast"])
async def test_a_message_that_is_dropped_ends_the_hook_and_not_the_connection(
    settings: Settings, method: str
) -> None:
    settings.WS_SEND_BUFFER = 1000

    class Newest(Room):
        send_overflow = "drop_newest"

        async def on_message(self, message: Any) -> None:
            await asyncio.gather(*[self.send("x" * 400) for _ in range(5)])

        async def on_broadcast(self, topic: str, message: Any) -> None:
            await self.on_message(message)

    async with Peer(Newest) as peer:
        peer.block()
        if method == "on_message":
            peer.say("1")
        else:
            await abroadcast("room", 1)
        await until(lambda: peer.handler.dropped)
        peer.unblock()
        await turns()
        assert peer.handler.connected


async def test_an_overflow_during_the_handshake_refuses_it(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.WS_SEND_BUFFER = 1000

    class Early(WebSocketHandler):
        async def on_connect(self) -> None:
            await self.subscribe("room")
            for _ in range(20):
                await abroadcast("room", "x" * 100)
            await until(lambda: self.closed)

    with pytest.raises(HandshakeRejected) as caught:
        async with client(Early):
            pass
    assert caught.value.status == 503
    assert "refused with 503" in caplog.text


# Connections that end, or leave


async def test_a_gap_is_not_told_after_the_end_or_of_topics_left_meanwhile(
    fickle: type[FickleBackend],  # noqa: F811
) -> None:
    told = []

    class Telling(WebSocketHandler):
        topics = ("a", "b")

        async def on_broadcast_gap(self, topics: frozenset[str]) -> None:
            told.append(topics)

    async with client(Telling):
        handler = the_handler()
        hub = running_hub("default")
        assert hub is not None
        subscriber = next(iter(hub.topics.members_of("a")))
        await handler.unsubscribe("b")
        subscriber.missed(frozenset({"b"}))
        subscriber.missed(frozenset({"a", "b"}))
        await until(lambda: told)
        assert told == [{"a"}]
        await handler.close()
        subscriber.missed(frozenset({"a"}))
    assert told == [{"a"}]


async def test_the_end_while_a_gap_waits(
    fickle: type[FickleBackend],  # noqa: F811
) -> None:
    class Telling(Held):
        async def on_broadcast_gap(self, topics: frozenset[str]) -> None:
            raise AssertionError("too late")

    async with client(Telling):
        handler = the_handler()
        hub = running_hub("default")
        assert hub is not None
        subscriber = next(iter(hub.topics.members_of("room")))
        await abroadcast("room", 1)
        await turns()
        fickle.made[0].lose("room")
        await abroadcast("room", 2)
        await until(lambda: len(subscriber.queue._items) == 2)  # type: ignore[attr-defined]
        await handler.close()
        assert handler.dropped == 1  # the broadcast
        subscriber.deliver(Broadcast("room", seal(3)))
        handler.may_go_on.set()


async def test_one_subscriber_that_fails_does_not_save_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with client(Room) as one, WebSocketClient(PATH) as two, WebSocketClient(PATH) as three:

        def fails(code: int, reason: str) -> None:
            raise LookupError("a defect")

        connection = handlers[1]._connection
        real = connection.__class__.close
        broken: Any = handlers[1]

        class Failing(connection.__class__):  # type: ignore[name-defined]
            __slots__ = ()

            def close(self, code: int = 1000, reason: str = "") -> Any:
                raise LookupError("a defect")

        connection.__class__ = Failing
        await adisconnect("room")
        for ws in (one, three):
            with pytest.raises(ConnectionClosed):
                await ws.receive()
        assert "one subscriber could not be told" in caplog.text
        connection.__class__ = Failing.__base__
        assert real is connection.__class__.close
        assert broken.connected
        await two.receive_nothing()


async def test_a_servers_send_that_is_cancelled_by_itself_harms_nobody_else() -> None:
    async with Peer(Room) as peer, WebSocketClient(PATH) as ws:
        peer.send_error = asyncio.CancelledError()
        await abroadcast("room", 1)
        assert await ws.receive() == 1
        await until(lambda: handlers[0].dropped == 1)
        await abroadcast("room", 2)
        assert await ws.receive() == 2


# Codecs


async def test_a_codec_that_on_open_has_chosen_counts_for_broadcasts() -> None:
    class Chosen(Room):
        async def on_open(self) -> None:
            self.codec = MessagePackCodec()

    async with client(Chosen, codec=MessagePackCodec()) as ws:
        await abroadcast("room", {"a": 1})
        assert await ws.receive() == {"a": 1}


async def test_a_codec_that_fails_costs_its_own_connection_one_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(JSONCodec):
        def encode(self, message: Any) -> str:
            if message == 1:
                raise LookupError("a defect in the codec")
            return super().encode(message)

    class Mixed(Room):
        async def on_open(self) -> None:
            if self.request.GET:
                self.codec = Failing()

    async with client(Mixed) as ws, WebSocketClient(f"{PATH}?failing") as failing:
        await abroadcast("room", 1)
        await abroadcast("room", 2)
        assert [await ws.receive(), await ws.receive()] == [1, 2]
        assert await failing.receive() == 2
    assert "a broadcast to 'room' was not sent: LookupError" in caplog.text


@pytest.mark.parametrize("has_hook", [True, False])
async def test_what_is_no_json_does_not_stop_the_line(
    has_hook: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Published by another program, say."""

    class Hooked(Room):
        async def on_broadcast(self, topic: str, message: Any) -> None:
            await self.send(message)

    class Packed(Room):
        codec = MessagePackCodec()

    handler: Any = Hooked if has_hook else Packed
    async with client(handler, codec=handler.codec) as ws:
        publisher_of("default").publish([("room", b"1J;\n{no json"), ("room", seal(2))])
        assert await ws.receive() == 2
        assert the_handler().dropped == 1
    assert "a broadcast to 'room' was not sent" in caplog.text


async def test_bytes_behind_a_gap_stay_bytes(
    fickle: type[FickleBackend],  # noqa: F811
) -> None:
    class Telling(Room):
        async def on_broadcast_gap(self, topics: frozenset[str]) -> None:
            await self.send("gap")

    async with client(Telling) as ws:
        fickle.made[0].lose("room")
        await abroadcast("room", b"\x01\x02")
        assert json.loads(await ws.receive_data()) == "gap"
        assert await ws.receive_data() == b"\x01\x02"


class Counting(TextCodec):
    encoded = 0

    def encode(self, message: Any) -> str:
        type(self).encoded += 1
        return super().encode(message)


@pytest.mark.parametrize("fast", [False, True])
async def test_what_a_codec_cannot_send_is_tried_once_and_told_once_for_all(
    fast: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Texts(Room):
        codec = Counting()

    monkeypatch.setattr(Counting, "encoded", 0)
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(client(Texts))]
        sockets += [await stack.enter_async_context(WebSocketClient(PATH)) for _ in range(49)]
        if fast:  # as on a server that shares frames
            hub = running_hub("default")
            assert hub is not None
            for member in hub.topics.members_of("room"):
                member.prepare, member.write_frames = list, lambda frames: False
        for _ in range(4):
            await abroadcast("room", {"a": 1})
        await abroadcast("room", "text")
        for each in sockets:
            assert await each.receive_data() == "text"
        assert Counting.encoded == 5  # one for each broadcast
        assert [handler.dropped for handler in handlers] == [4] * 50
        throttled.flush_all()
    lines = [text for text in caplog.messages if "was not sent" in text]
    assert len(lines) == 2
    assert "a broadcast to 'room' was not sent: EncodeError" in lines[0]
    assert lines[1].startswith("Further broadcasts that a codec could not send in 10 s: 199. ")


async def test_each_topic_and_codec_that_do_not_fit_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Mixed(WebSocketHandler):
        topics = ("room", "hall")

        async def on_open(self) -> None:
            self.codec = TextCodec() if self.request.GET else BytesCodec()

    async with client(Mixed), WebSocketClient(f"{PATH}?text"):
        for topic in ("room", "hall", "room", "hall"):
            await abroadcast(topic, {"a": 1})
        await until(lambda: [handler.dropped for handler in handlers] == [4, 4])
    told = [text for text in caplog.messages if "was not sent" in text]
    assert len(told) == 4


def test_an_error_that_is_remembered_keeps_no_frames() -> None:
    broadcast = Broadcast("room", seal({"a": 1}))
    codec = TextCodec()
    for _ in range(3):
        with pytest.raises(EncodeError) as caught:
            broadcast.data_for(codec)
    assert len(caught.traceback) <= 2
