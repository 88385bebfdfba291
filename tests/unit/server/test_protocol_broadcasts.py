"""Broadcasts through the fast protocol: one frame for all, and every rule as without it."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pytest_django import Settings
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from django_ws import WebSocketHandler, abroadcast
from django_ws.codecs import Codec, JSONCodec, MessagePackCodec
from django_ws.exceptions import DecodeError, EncodeError
from django_ws.pubsub.backends.base import Gap
from django_ws.pubsub.envelope import Broadcast, seal, seal_check
from django_ws.pubsub.hub.batch import MAX_BYTES, MESSAGE_BYTES, Batch, next_batch
from django_ws.pubsub.hub.registry import publisher_of, running_hub
from django_ws.pubsub.outgoing import broadcast_of
from django_ws.server.protocol.frames import Frames
from django_ws.server.protocol.protocol import FastProtocol
from django_ws.types import Scope
from tests.asgi import application
from tests.support.asgi_peer import handlers, route, until
from tests.support.wire import CLOSE, FIN, TEXT, Client, frame


@pytest.fixture(autouse=True)
def one_time_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrives together is delivered together, also on a busy machine: otherwise topics take
    turns, and what is promised of the order is only that of each topic.
    """
    monkeypatch.setattr("django_ws.pubsub.hub.time_slice.TURN_SECONDS", 60.0)


@pytest.fixture
def sends(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The types of the events that went through the server's ``send``."""
    found = []
    send = FastProtocol.send

    async def noting_send(self: FastProtocol, message: Any) -> None:
        found.append(message["type"])
        await send(self, message)

    monkeypatch.setattr(FastProtocol, "send", noting_send)
    return found


both = pytest.mark.parametrize("kind", [WebSocketsSansIOProtocol, FastProtocol])


class Room(WebSocketHandler):
    topics = ("room",)


class Oldest(Room):
    send_overflow = "drop_oldest"


class Newest(Room):
    send_overflow = "drop_newest"


@asynccontextmanager
async def clients(
    handler_class: type[WebSocketHandler],
    count: int,
    kind: type[Any] = FastProtocol,
    app: Any = application,
    **options: Any,
) -> AsyncIterator[list[Client]]:
    with route(handler_class):
        found = []
        try:
            for _ in range(count):
                client = Client(kind, application=app, **options)
                found.append(client)
                await client.open(path=b"/ws/")
            yield found
        finally:
            for client in found:
                await client.lose()


def publish(*messages: Any, topic: str = "room", exclude: str | None = None) -> None:
    """All of them before the hub can read the first."""
    publisher_of("default").publish([(topic, seal(message, exclude)) for message in messages])


def received(client: Client) -> list[Any]:
    return [json.loads(payload) for first, payload in client.frames if first & 0x0F == TEXT]


async def arrived(some: Sequence[Client], count: int) -> None:
    await until(lambda: all(len(received(client)) >= count for client in some))


async def test_what_arrives_together_is_one_write_for_each_subscriber(sends: list[str]) -> None:
    async with clients(Room, 3) as some:
        publish(*range(20))
        await arrived(some, 20)
        for client in some:
            assert received(client) == list(range(20))
            assert len(client.wire.written) == 1
        assert sends == ["websocket.accept"] * 3
        # The same bytes for all, that were made once.
        assert len({id(client.wire.objects[-1]) for client in some}) == 1


async def test_a_broadcast_does_not_wait_for_a_later_one() -> None:
    async with clients(Room, 1) as [client]:
        for number in range(3):
            publish(number)
            await arrived([client], number + 1)
        assert len(client.wire.written) == 3


async def test_sends_and_broadcasts_keep_their_order() -> None:
    async with clients(Room, 1) as [client]:
        handler = handlers[0]
        for number in range(0, 30, 3):
            handler.send(number)
            publish(number + 1)
            await arrived([client], number + 2)
            await handler.send(number + 2)
        assert received(client) == list(range(30))


@both
@pytest.mark.parametrize("slice_members", [1, 32])
async def test_a_broadcast_reaches_everybody_before_the_next_one(
    kind: type[Any], slice_members: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_ws.pubsub.hub.hub.SLICE_MEMBERS", slice_members)
    written: list[str] = []
    async with clients(Room, 3, kind) as some:
        for number, client in enumerate(some):
            write = client.wire.write

            def noting_write(data: Any, number: int = number, write: Any = write) -> None:
                written.append(f"{number}: {len(data)} bytes")
                write(data)

            monkeypatch.setattr(client.wire, "write", noting_write)
        publish(1, 23)
        await arrived(some, 2)
        order = {int(line.partition(":")[0]): None for line in written}  # that of a set
        at_once = kind is FastProtocol
        sizes = [3 + 4] if at_once else [3, 4]
        assert written == [f"{number}: {size} bytes" for size in sizes for number in order]


@both
async def test_excluded_connections_get_all_the_others(kind: type[Any]) -> None:
    async with clients(Room, 3, kind) as some:
        first, second, _ = handlers
        messages = [(0, None), (1, first.id), (2, second.id), (3, None), (4, first.id)]
        publisher_of("default").publish([("room", seal(*message)) for message in messages])
        await arrived([some[2]], 5)
        assert [received(client) for client in some] == [[0, 2, 3], [0, 1, 3, 4], [0, 1, 2, 3, 4]]


@both
async def test_topics_keep_their_order_between_them(kind: type[Any]) -> None:
    class Two(WebSocketHandler):
        topics = ("room", "other")

    async with clients(Two, 1, kind) as [client]:
        publisher_of("default").publish(
            [(topic, seal(n)) for n, topic in enumerate(["room", "room", "other", "room"])]
        )
        await arrived([client], 4)
        assert received(client) == [0, 1, 2, 3]


@both
async def test_a_broadcast_to_several_topics_comes_once_and_in_its_place(kind: type[Any]) -> None:
    class Two(WebSocketHandler):
        topics = ("room", "other")

    async with clients(Two, 2, kind) as some:
        excluded = handlers[0].id
        messages: list[tuple[str, bytes]] = []
        for number in range(0, 9, 3):
            messages += broadcast_of("room", number).messages()
            messages += broadcast_of(["other", "room"], number + 1).messages()
            messages += broadcast_of(["room", "other"], number + 2, excluded).messages()
        publisher_of("default").publish([*messages, ("other", seal("last"))])
        await until(lambda: all("last" in received(client) for client in some))
        assert received(some[1]) == [*range(9), "last"]
        assert received(some[0]) == [0, 1, 3, 4, 6, 7, "last"]


@both
async def test_each_codec_gets_its_own(kind: type[Any]) -> None:
    class Mixed(Room):
        def on_connect(self) -> None:
            if len(handlers) % 2:
                self.codec = MessagePackCodec()

    async with clients(Mixed, 4, kind) as some:
        publish({"a": 1}, {"b": 2})
        await until(lambda: all(len(client.frames) == 2 for client in some))
        assert [client.frames[0][1] for client in some] == [b"\x81\xa1a\x01", b'{"a":1}'] * 2


@both
async def test_one_that_cannot_be_encoded_takes_no_other_with_it(
    kind: type[Any], caplog: pytest.LogCaptureFixture
) -> None:
    class NoLists(JSONCodec):
        def encode(self, message: Any) -> str:
            if isinstance(message, list):
                raise EncodeError("$", "no lists")
            return super().encode(message)

    class Picky(Room):
        codec = NoLists()

    async with clients(Picky, 1, kind) as [client]:
        publish(1, [2], 3)
        await arrived([client], 2)
        assert received(client) == [1, 3]
        assert handlers[0].dropped == 1
    assert "was not sent" in caplog.text


@both
async def test_lone_surrogates_end_the_connection_that_would_send_them(kind: type[Any]) -> None:
    class Surrogates(Codec):
        def encode(self, message: Any) -> str:
            return "\ud800"

        def decode(self, data: str | bytes) -> Any:
            return data

    class Bad(Room):
        codec = Surrogates()

    async with clients(Bad, 1, kind) as [client]:
        publish(1)
        await until(lambda: handlers[0].dropped)
        assert client.wire.written == []


@both
async def test_a_hook_gets_each_of_them(kind: type[Any]) -> None:
    class Hooked(Room):
        async def on_broadcast(self, topic: str, message: Any) -> None:
            await self.send([topic, message])

    async with clients(Hooked, 1, kind) as [client]:
        publish(1, 2)
        await arrived([client], 2)
        assert received(client) == [["room", 1], ["room", 2]]


async def test_what_stands_between_server_and_application_sees_every_event() -> None:
    seen = []

    async def application_between(scope: Scope, receive: Any, send: Any) -> None:
        async def seeing_send(event: Any) -> None:
            seen.append(event["type"])
            await send(event)

        await application(scope, receive, seeing_send)

    async with clients(Room, 1, app=application_between) as [client]:
        publish(1, 2)
        await arrived([client], 2)
        await handlers[0].send(3)
        assert seen == ["websocket.accept"] + ["websocket.send"] * 3


# Clients that read slowly


@both
async def test_who_reads_slowly_holds_up_nobody_and_gets_all_in_order(kind: type[Any]) -> None:
    async with clients(Room, 2, kind) as [slow, quick]:
        slow.protocol.pause_writing()
        publish(1, 2)
        await arrived([quick], 2)
        publish(3)
        await arrived([quick], 3)
        handlers[0].send(4)
        assert received(slow) == []
        slow.protocol.resume_writing()
        publish(5)  # it must not overtake what waits
        await arrived([slow], 5)
        assert received(slow) == [1, 2, 3, 4, 5]
        publish(6)
        await arrived([slow], 6)
        assert handlers[0].dropped == 0


async def test_frames_do_not_overtake_what_waits() -> None:
    async with clients(Room, 1) as [client]:
        hub = running_hub("default")
        assert hub is not None
        [member] = hub.topics.members_of("room")
        assert member.write_frames is not None
        assert member.prepare is not None
        client.protocol.pause_writing()
        handlers[0].send(1)
        client.protocol.resume_writing()  # the writer has still to wake up
        frames = member.prepare(["2"])
        assert not member.write_frames(frames)
        await arrived([client], 1)
        await until(lambda: member.write_frames is not None and member.write_frames(frames))
        assert received(client) == [1, 2]


async def test_who_leaves_while_the_loop_turns_gets_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("django_ws.pubsub.hub.hub.SLICE_MEMBERS", 1)
    monkeypatch.setattr("django_ws.pubsub.hub.time_slice.TURN_SECONDS", -1.0)  # it turns after each
    async with clients(Room, 3) as some:
        second = handlers[1]
        wire = some[0].wire
        write = wire.write

        def leave_then_write(data: Any) -> None:
            second.unsubscribe("room")
            write(data)

        monkeypatch.setattr(wire, "write", leave_then_write)
        publish(1)
        await arrived([some[2]], 1)
        assert [received(client) for client in some] == [[1], [], [1]]


@both
@pytest.mark.parametrize(
    ("handler_class", "expected"), [(Oldest, [0, 8, 9]), (Newest, [0, 1, 2])], ids=["old", "new"]
)
async def test_the_buffer_holds_and_drops_the_same(
    settings: Settings, kind: type[Any], handler_class: type[Room], expected: list[int]
) -> None:
    settings.WS_SEND_BUFFER = 3 * 101
    async with clients(handler_class, 1, kind) as [client]:
        client.protocol.pause_writing()
        publish(*range(10))
        await until(lambda: handlers[0].dropped == 7)
        client.protocol.resume_writing()
        await arrived([client], 3)
        assert received(client) == expected


@both
async def test_a_full_buffer_closes(
    settings: Settings, kind: type[Any], caplog: pytest.LogCaptureFixture
) -> None:
    settings.WS_SEND_BUFFER = 3 * 101
    async with clients(Room, 2, kind) as [slow, quick]:
        slow.protocol.pause_writing()
        publish(*range(10))
        await until(lambda: handlers[0].closed)
        await arrived([quick], 10)
        assert handlers[0].close_code == 1013
        assert handlers[0].dropped == 4
    assert "reads too slowly" in caplog.text


@both
async def test_a_slice_of_many_who_read_slowly(kind: type[Any]) -> None:
    async with clients(Newest, 70, kind) as some:
        for client in some[::3]:
            client.protocol.pause_writing()
        publish(1, 2)
        await arrived(some[1::3] + some[2::3], 2)
        for client in some[::3]:
            assert received(client) == []
            client.protocol.resume_writing()
        await arrived(some, 2)
        assert [received(client) for client in some] == [[1, 2]] * 70


@both
async def test_nothing_is_delivered_after_a_close(kind: type[Any]) -> None:
    async with clients(Room, 2, kind) as [leaving, staying]:
        await handlers[0].close()
        publish(1)
        await arrived([staying], 1)
        assert leaving.frames == [(FIN | CLOSE, b"\x03\xe8")]
        await leaving.feed(frame(CLOSE, b"\x03\xe8"))
        assert leaving.wire.closing


async def test_a_handlers_messages_take_the_short_way(sends: list[str]) -> None:
    class Echo(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            await self.send(message)

    async with clients(Echo, 1) as [client]:
        await client.feed(frame(TEXT, b'"short"'), frame(TEXT, json.dumps("x" * 70_000).encode()))
        await arrived([client], 2)
        assert received(client) == ["short", "x" * 70_000]
        assert sends == ["websocket.accept", "websocket.send"]  # the large one


# What belongs together


def batches(items: Sequence[Any]) -> list[Any]:
    waiting = deque(items)
    found = []
    while waiting:
        found.append(next_batch(waiting))
    return found


def test_batches_keep_the_order_and_break_where_they_must() -> None:
    gap = Gap(frozenset({"a"}))
    items: list[Any] = [
        *[("a", seal(1)), ("a", seal(2)), ("b", seal(3)), gap, ("b", b"what is this"), gap],
        *[("b", seal(4)), ("b", seal_check("owner")), ("b", seal_check("owner")), ("b", seal(5))],
    ]
    found = batches(items)
    assert [
        [broadcast.payload for broadcast in item.broadcasts]
        if isinstance(item, Batch)
        else type(item)
        for item in found
    ] == [
        *[[b"1", b"2"], [b"3"], Gap, DecodeError, Gap],
        *[[b"4"], [b'"owner"'], [b'"owner"'], [b"5"]],
    ]
    assert "a broadcast to 'b' in an unknown envelope" in str(found[3])
    assert batches([gap]) == [gap]


def test_a_batch_is_no_larger_than_what_a_server_lets_wait() -> None:
    def batched(*sizes: int) -> list[list[int]]:
        items = [("a", seal(b"x" * size)) for size in sizes]
        found = [batch for batch in batches(items) if isinstance(batch, Batch)]
        return [[len(broadcast.payload) for broadcast in batch.broadcasts] for batch in found]

    rest = MAX_BYTES - 2 * MESSAGE_BYTES
    assert batched(rest - 20, 21, MAX_BYTES * 3, 1, 2) == [
        *[[rest - 20], [21], [MAX_BYTES * 3], [1, 2]],
    ]
    assert batched(rest - 20, 20) == [[rest - 20, 20]]
    # It is made without a pause: there is no end of empty ones in it.
    assert [len(sizes) for sizes in batched(*[0] * 1500)] == [655, 655, 190]


def test_a_batch_tells_whom_it_excludes() -> None:
    batch = Batch(Broadcast("a", seal(1)))
    assert batch.excluded == set()
    assert batch.add(Broadcast("a", seal(2, "id")))
    assert batch.excluded == {"id"}


def test_what_cannot_be_prepared_is_not_tried_for_everybody() -> None:
    calls = 0

    def prepare(messages: Sequence[str | bytes]) -> Any:
        nonlocal calls
        calls += 1
        raise ValueError("no frames")

    batch = Batch(Broadcast("a", seal(1)))
    assert [batch.frames_for(JSONCodec(), prepare) for _ in range(3)] == [None] * 3
    assert calls == 1


def test_plain_json_codecs_share_what_they_have_encoded() -> None:
    batch = Batch(Broadcast("a", seal(1)))
    assert batch.frames_for(JSONCodec(), Frames) is batch.frames_for(JSONCodec(), Frames)


def test_a_codec_gets_nothing_of_one_that_is_gone() -> None:
    """Whose id it may have."""

    class OtherCodec(JSONCodec):
        pass

    broadcast = Broadcast("a", seal([]))
    for _ in range(100):
        broadcast.data_for(MessagePackCodec())
        assert broadcast.data_for(OtherCodec()) == "[]"


async def test_what_is_not_known_leaves_the_loop_its_turns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("django_ws.pubsub.hub.time_slice.TURN_SECONDS", -1.0)  # it turns after each
    monkeypatch.setattr("django_ws.logs.throttled.MAX_KEYS", 100)
    monkeypatch.setattr("django_ws.logs.throttled.SECONDS", -1.0)  # nothing is left out
    async with clients(Room, 1) as [client]:
        publisher_of("default").publish([("room", b"of another version")] * 50)
        publish("the last")
        seen = []
        while not received(client):
            await asyncio.sleep(0)
            seen.append(caplog.text.count("a broadcast to 'room' in an unknown envelope"))
        assert set(range(1, 50)) <= {*seen}


async def test_abroadcast_uses_it_too(sends: list[str]) -> None:
    async with clients(Room, 1) as [client]:
        await asyncio.gather(*[abroadcast("room", number) for number in range(3)])
        await arrived([client], 3)
        assert received(client) == [0, 1, 2]
        assert sends == ["websocket.accept"]
