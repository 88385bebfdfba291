"""The backend for one process: what it does beyond the contract."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest
from asgiref.sync import sync_to_async

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends import base, memory
from django_ws.pubsub.backends.memory import MemoryBackend, MemoryPublisher

PREFIX = "test:"


@asynccontextmanager
async def started(*topics: str) -> AsyncIterator[MemoryBackend]:
    backend = MemoryBackend(None, PREFIX, {})
    await backend.connect()
    await backend.subscribe(topics)
    try:
        yield backend
    finally:
        await backend.close()


async def received(backend: MemoryBackend, count: int) -> list[bytes]:
    found = []
    async with aclosing(backend.stream()) as stream:  # type: ignore[type-var]
        async for message in stream:
            assert isinstance(message, tuple)
            found.append(message[1])
            if len(found) == count:
                break
    return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_WAITING_BYTES", 1000)
    monkeypatch.setattr(base, "PUBLISH_SECONDS", 0.1)


@pytest.fixture
def publisher() -> MemoryPublisher:
    return MemoryPublisher(None, PREFIX, {})


@pytest.mark.usefixtures("small")
async def test_a_loop_that_does_not_read_fills_up_to_a_bound(publisher: MemoryPublisher) -> None:
    async with started("room") as backend, started("other") as other:
        with pytest.raises(BroadcastError, match="waits for an event loop") as caught:
            await asyncio.to_thread(publisher.publish, [("room", b"")] * 20)
        assert (caught.value.action, caught.value.server) == ("broadcast", "this process")
        with pytest.raises(BroadcastError):
            await backend.publish("room", b"hi")
        await backend.publish("other", b"hi")  # nobody else is held up
        assert await received(other, 1) == [b"hi"]
        taken = await received(backend, 6)
        assert taken == [b""] * 6  # 200 bytes each: empty ones take room, too
        await backend.publish("room", b"again")
        assert await received(backend, 1) == [b"again"]


@pytest.mark.usefixtures("small")
async def test_publishers_wait_for_room(
    publisher: MemoryPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "PUBLISH_SECONDS", 30.0)
    many = [("room", f"{number}".encode()) for number in range(100)]
    async with started("room") as backend:
        for publish in (backend.publish_many, sync_to_async(publisher.publish)):
            publishing = asyncio.create_task(publish(many))
            assert await received(backend, 100) == [data for _, data in many]
            await publishing


async def test_a_message_above_the_bound_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_WAITING_BYTES", 1000)
    async with started("room") as backend:
        await backend.publish("room", b"x" * 5000)
        assert await received(backend, 1) == [b"x" * 5000]


async def test_publishing_without_end_lets_the_loop_turn() -> None:
    async with started("room") as backend:
        reading = asyncio.create_task(received(backend, 10))
        for number in range(10):
            await backend.publish("room", f"{number}".encode())
            assert len(backend._waiting) <= 1
        await reading


async def test_a_long_stream_lets_the_loop_turn() -> None:
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        loop.call_soon(turn)

    loop = asyncio.get_running_loop()
    async with started("room") as backend:
        await backend.publish_many([("room", b"")] * 1000)
        loop.call_soon(turn)
        await received(backend, 1000)
    assert turns >= 5


async def test_a_closed_backend_ends_in_the_middle_of_what_waits() -> None:
    async with started("room") as backend:
        await backend.publish_many([("room", b"")] * 10)
        seen = 0
        async for _ in backend.stream():
            seen += 1
            await backend.close()
        assert seen == 1


async def test_a_loop_that_was_closed_without_a_shutdown_is_forgotten(
    publisher: MemoryPublisher,
) -> None:
    async def leave() -> MemoryBackend:
        backend = MemoryBackend(None, PREFIX, {})
        await backend.connect()
        await backend.subscribe(["room", "room 2"])
        return backend

    left = await asyncio.to_thread(asyncio.run, leave())
    async with started("room") as backend:
        publisher.publish([("room", b"1"), ("room", b"2"), ("room 2", b"3")])
        assert await received(backend, 2) == [b"1", b"2"]
    assert not left._waiting
    assert not [
        channel for channel in memory._bus().listeners if channel.startswith(PREFIX.encode())
    ]


def test_each_loop_hears_all_threads_in_one_order(publisher: MemoryPublisher) -> None:
    """Two loops in two threads: what one sees first, the other does, too."""
    listening = threading.Barrier(3)
    found: list[list[bytes]] = []

    async def listen() -> None:
        async with started("room") as backend:
            await asyncio.to_thread(listening.wait, 10)
            found.append(await received(backend, 2000))

    def publish(name: bytes) -> None:
        for number in range(1000):
            publisher.publish([("room", b"%b%d" % (name, number))])

    listeners = [threading.Thread(target=asyncio.run, args=(listen(),)) for _ in range(2)]
    publishers = [threading.Thread(target=publish, args=(name,)) for name in (b"a", b"b")]
    for thread in listeners:
        thread.start()
    listening.wait(10)
    for thread in publishers:
        thread.start()
    for thread in listeners + publishers:
        thread.join(30)
    assert len(found) == 2
    assert found[0] == found[1]


async def test_what_is_at_hand_leaves_the_loop_its_turns() -> None:
    async with started("topic") as backend, aclosing(backend.stream()) as stream:  # type: ignore[type-var]
        MemoryPublisher(None, PREFIX, {}).publish([("topic", b"%d" % n) for n in range(150)])
        await asyncio.sleep(0)
        first = await anext(stream)
        found = [first, *backend.read_nowait()]
        assert len(found) == memory.AT_ONCE
        assert backend.read_nowait() == []
        found += [await anext(stream), *backend.read_nowait()]
        assert found == [("topic", b"%d" % n) for n in range(150)]
