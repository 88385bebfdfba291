"""More arrives than can be delivered at once: topics take turns, and a flood has a bound."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from django_ws import WebSocketHandler, abroadcast
from django_ws.exceptions import BroadcastError, DecodeError
from django_ws.pubsub.backends import base, memory
from django_ws.pubsub.backends.base import Gap
from django_ws.pubsub.envelope import Broadcast, seal, seal_check, seal_disconnect
from django_ws.pubsub.hub import arrivals as arrivals_module
from django_ws.pubsub.hub.arrivals import ALL_TOPICS, MESSAGE_BYTES, Arrivals
from django_ws.pubsub.hub.batch import Batch
from django_ws.pubsub.hub.hub import Hub
from django_ws.pubsub.hub.registry import publisher_of, running_hub
from tests.support.asgi_peer import client, until
from tests.support.fickle import FickleBackend, fickle  # noqa: F401  (a fixture)


def put(arrivals: Arrivals, topic: str, *messages: Any) -> None:
    for message in messages:
        arrivals.put((topic, seal(message)))


def drained(arrivals: Arrivals) -> list[tuple[str, Any]]:
    """What is given, turn by turn: topics with messages, gaps and errors."""
    found: list[tuple[str, Any]] = []
    while (queue := arrivals.next()) is not None:
        assert arrivals
        item = arrivals.take(queue)
        match item:
            case Batch():
                found.append((queue.topic, [each.message() for each in item.broadcasts]))
            case Gap():
                found.append((queue.topic, item.topics))
            case DecodeError():
                found.append((queue.topic, DecodeError))
        arrivals.end_turn()
    assert not arrivals
    assert arrivals.size == 0
    return found


def test_topics_take_turns_and_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django_ws.pubsub.hub.batch.MAX_BYTES", 250)
    arrivals = Arrivals()
    put(arrivals, "flood", *range(6))
    put(arrivals, "a", "a")
    put(arrivals, "flood", 6)
    put(arrivals, "b", "b", "b too")
    assert drained(arrivals) == [
        *[("flood", [0, 1]), ("a", ["a"]), ("b", ["b", "b too"])],
        *[("flood", [2, 3]), ("flood", [4, 5]), ("flood", [6])],
    ]


def test_a_gap_comes_behind_what_waits_of_each_topic() -> None:
    arrivals = Arrivals()
    put(arrivals, "a", 1)
    arrivals.put(Gap(frozenset({"a", "b"})))
    put(arrivals, "b", 2)
    put(arrivals, "a", 3)
    assert drained(arrivals) == [
        *[("a", [1]), ("b", {"b"}), ("a", {"a"}), ("b", [2]), ("a", [3])],
    ]


def test_what_is_read_already_or_not_known_keeps_its_place() -> None:
    arrivals = Arrivals()
    put(arrivals, "a", 1)
    arrivals.put(Broadcast("a", seal(2)))
    arrivals.put(("a", b"what is this"))
    put(arrivals, "a", 3)
    assert drained(arrivals) == [("a", [1]), ("a", [2]), ("a", DecodeError), ("a", [3])]


def test_what_was_begun_goes_on_and_what_concerns_all_topics_goes_first() -> None:
    arrivals = Arrivals()
    arrivals.put_begun(ALL_TOPICS, iter([None]))
    put(arrivals, "a", 1)
    queue = arrivals.next()
    assert queue is not None
    for _ in range(3):
        assert arrivals.next() is queue
        assert queue.topic == ALL_TOPICS
        arrivals.end_turn()
    queue.work = None
    arrivals.end_turn()
    arrivals.put_begun("b", iter([None]))
    assert drained_topics(arrivals, 4) == ["a", "b", "b", "b"]


def drained_topics(arrivals: Arrivals, turns: int) -> list[str]:
    topics = []
    for _ in range(turns):
        queue = arrivals.next()
        assert queue is not None
        if queue.items:
            arrivals.take(queue)
        topics.append(queue.topic)
        arrivals.end_turn()
    return topics


# The bound


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """Room for ten messages of 100 bytes."""
    size = 10 * (100 + MESSAGE_BYTES)
    monkeypatch.setattr(arrivals_module, "MAX_WAITING_BYTES", size)
    return size


def message(number: int) -> bytes:
    return seal(f"{number}".ljust(93, "x"))


def numbers(found: Any) -> Any:
    return [int(text.rstrip("x")) for text in found] if isinstance(found, list) else found


def test_the_topic_of_which_the_most_waits_loses_it_and_is_told(
    small: int, caplog: pytest.LogCaptureFixture
) -> None:
    arrivals = Arrivals()
    assert len(message(0)) == 100
    for number in range(3):
        arrivals.put(("quiet", message(number)))
    for number in range(9):
        arrivals.put(("flood", message(number)))
    assert arrivals.size <= small
    assert arrivals.dropped == 8
    found = [(topic, numbers(each)) for topic, each in drained(arrivals)]
    assert found == [("quiet", [0, 1, 2]), ("flood", {"flood"}), ("flood", [8])]
    assert "All broadcasts to 'flood' that waited were dropped, 8 of them" in caplog.text
    assert "Dropped so far: 8." in caplog.text


def test_one_message_that_is_larger_than_the_room_is_dropped_too(small: int) -> None:
    arrivals = Arrivals()
    arrivals.put(("flood", message(0) * 100))
    put(arrivals, "flood", 1)
    assert drained(arrivals) == [("flood", {"flood"}), ("flood", [1])]


def test_orders_outlive_a_flood(small: int) -> None:
    arrivals = Arrivals()
    order = seal_disconnect("flood", 4403, "enough")
    arrivals.put(("flood", order))
    arrivals.put(Broadcast("flood", order))
    for number in range(9):
        arrivals.put(("flood", message(number)))
    assert arrivals.dropped == 9
    put(arrivals, "flood", "later")
    orders = [["flood", 4403, "enough"]]
    assert [each for _, each in drained(arrivals)] == [{"flood"}, orders, orders, ["later"]]


def test_not_even_orders_fill_the_memory(small: int) -> None:
    arrivals = Arrivals()
    for _ in range(100):
        arrivals.put(("\0control", seal_check("x" * 95)))
        assert arrivals.size <= small
    assert arrivals.dropped > 0
    queue = arrivals.next()
    assert queue is not None
    assert arrivals.take(queue) == Gap(frozenset({"\0control"}))


def test_of_its_part_of_the_room_one_topic_may_fill_half_and_two_a_third_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arrivals_module, "MAX_WAITING_BYTES", 16 * (100 + MESSAGE_BYTES))
    topics = ["a"]
    for expected in (7, 5, 4):
        counts = dict.fromkeys(topics, 0)
        arrivals = Arrivals()
        while any(not arrivals.is_crowded(topic) for topic in topics):
            for topic in topics:
                if not arrivals.is_crowded(topic):
                    arrivals.put((topic, message(0)))
                    counts[topic] += 1
        assert max(counts.values()) == expected
        assert not arrivals.is_crowded("another")
        assert arrivals.dropped == 0
        topics.append(f"{len(topics)}")


# In a hub


class Room(WebSocketHandler):
    topics = ("other",)


def the_hub() -> Hub:
    hub = running_hub("default")
    assert hub is not None
    return hub


class Busy:
    """A subscriber for whom each thing takes two milliseconds of the event loop."""

    codec: Any = None
    prepare: Any = None
    write_frames: Any = None
    send: Any = None

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.stands_for: Any = self

    def deliver(self, broadcast: Broadcast) -> None:
        self._take(broadcast.message())

    def missed(self, topics: frozenset[str]) -> None:
        self._take(topics)

    def disconnect(self, code: int, reason: str) -> None:
        self._take(reason)

    def _take(self, what: Any) -> None:
        time.sleep(0.002)
        self.got.append(what)

    def is_called(self, names: Any) -> bool:
        return False

    def check_login(self) -> None: ...

    def not_joined(self, topic: str) -> None: ...


async def busy(number: int, *topics: str) -> list[Busy]:
    members = [Busy() for _ in range(number)]
    for member in members:
        for topic in topics:
            await the_hub().topics.join(member, topic)
    return members


def feed(*items: Any) -> None:
    """Let these arrive together."""
    for topic, message in items:
        FickleBackend.made[0]._received.put_nowait((topic, seal(message)))


@pytest.mark.usefixtures("fickle")
class TestFloods:
    async def test_a_flood_on_one_topic_does_not_hold_up_another(self) -> None:
        async with client(Room) as ws:
            members = await busy(3, "flood")
            feed(*[("flood", number) for number in range(200)])
            await until(lambda: members[0].got)
            for number in range(5):
                feed(("other", number))
                assert await ws.receive() == number
            assert len(members[-1].got) < 200  # they take more than a second
            await until(lambda: len(members[-1].got) == 200)
            assert [member.got for member in members] == [[*range(200)]] * 3
            await until(lambda: not the_hub()._arrivals)

    async def test_a_batch_that_is_interrupted_goes_on_before_what_comes_later(self) -> None:
        async with client(Room) as ws:
            members = await busy(100, "flood")
            feed(("flood", 0), ("other", 1))
            await until(lambda: members[0].got)
            feed(("flood", 2))
            assert await ws.receive() == 1
            assert members[-1].got == []
            await until(lambda: members[-1].got == [0, 2])
            assert all(member.got == [0, 2] for member in members)

    async def test_a_gap_that_takes_long_is_told_before_what_comes_later_of_any_topic(
        self,
    ) -> None:
        async with client(Room) as ws:
            members = await busy(20, "a", "b")
            FickleBackend.made[0].lose("a", "b")
            await until(lambda: members[0].got)
            assert members[-1].got == []
            feed(("other", 1), ("b", 2), ("a", 3))
            assert await ws.receive() == 1
            await until(lambda: len(members[-1].got) == 3)
            for member in members:
                assert member.got == [{"a", "b"}, 2, 3]

    async def test_a_gap_in_a_flood_keeps_its_place(self) -> None:
        async with client(Room):
            members = await busy(2, "flood", "calm")
            feed(*[("flood", number) for number in range(10)])
            await until(lambda: members[0].got)
            FickleBackend.made[0].lose("flood", "calm")
            feed(("flood", 10), ("calm", "calm"))
            await until(lambda: len(members[-1].got) == 14)
            for member in members:
                of_flood = [each for each in member.got if each not in ({"calm"}, "calm")]
                assert of_flood == [*range(10), {"flood"}, 10]
                assert member.got.index({"calm"}) < member.got.index("calm")

    async def test_an_order_in_a_flood_keeps_its_place(self) -> None:
        async with client(Room):
            members = await busy(2, "flood")
            feed(*[("flood", number) for number in range(10)])
            await until(lambda: members[0].got)
            order = seal_disconnect("flood", 4403, "end")
            FickleBackend.made[0]._received.put_nowait(("flood", order))
            feed(("flood", 10))
            await until(lambda: len(members[-1].got) == 12)
            assert [member.got for member in members] == [[*range(10), "end", 10]] * 2

    async def test_a_flood_beyond_the_bound_loses_its_own_and_is_told(self, small: int) -> None:
        async with client(Room) as ws:
            members = await busy(3, "flood")
            feed(*[("flood", number) for number in range(100)])
            await until(lambda: members[0].got)
            for number in range(3):
                feed(("other", number))
                assert await ws.receive() == number
            feed(("flood", "last"))
            await until(lambda: members[-1].got[-1:] == ["last"])
            hub = the_hub()
            assert hub._arrivals.dropped > 0
            for member in members:
                received = [each for each in member.got if isinstance(each, int)]
                assert received == sorted(received)
                assert {"flood"} in member.got
                assert len(received) + hub._arrivals.dropped == 100

    async def test_many_topics_that_flood_get_short_turns(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So that what comes is read."""
        monkeypatch.setattr("django_ws.pubsub.hub.batch.MAX_BYTES", 250)
        async with client(Room):
            members = await busy(2, "flood")
            monkeypatch.setattr(arrivals_module, "MAX_WAITING_BYTES", 8 * 20 * 210)
            feed(*[("flood", number) for number in range(60)])
            await until(lambda: the_hub()._arrivals.are_many)
            assert len(members[0].got) < 60
            await until(lambda: len(members[-1].got) == 60)
            assert not the_hub()._arrivals.are_many

    async def test_what_comes_without_end_is_read_in_pieces(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("django_ws.pubsub.hub.hub.READ_AT_ONCE", 10)
        async with client(Room):
            [member] = await busy(1, "flood")
            feed(*[("flood", number) for number in range(500)])
            await until(lambda: len(member.got) >= 5)
            assert FickleBackend.made[0]._received.qsize() > 0
            await until(lambda: len(member.got) == 500)
            assert member.got == [*range(500)]

    async def test_a_restart_of_the_listener_is_told_in_pieces(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("django_ws.pubsub.hub.hub.RESTART_SECONDS", 0.001)
        async with client(Room):
            members = await busy(20, "a")
            FickleBackend.made[0].crash()
            await until(lambda: members[0].got)
            assert members[-1].got == []
            await until(lambda: members[-1].got)
            assert [member.got for member in members] == [[{"a"}]] * 20

    async def test_what_fails_in_a_flood_ends_nothing(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with client(Room) as ws:
            members = await busy(2, "flood")
            feed(*[("flood", number) for number in range(10)])
            await until(lambda: members[0].got)
            FickleBackend.made[0]._received.put_nowait(("flood", b"1D;\nno JSON"))
            FickleBackend.made[0]._received.put_nowait(("flood", b"no envelope"))
            feed(("flood", 10), ("other", 1))
            assert await ws.receive() == 1
            await until(lambda: len(members[-1].got) == 11)
            assert "could not be handed on" in caplog.text
            assert "in an unknown envelope" in caplog.text


# In a process of its own, publishers can wait


async def test_who_floods_a_topic_of_this_process_waits_and_nobody_else_does(
    small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "PUBLISH_SECONDS", 50.0)
    monkeypatch.setattr("django_ws.pubsub.hub.batch.MAX_BYTES", 250)
    monkeypatch.setattr(memory, "MAX_WAITING_BYTES", small // 4)
    async with client(Room) as ws:
        await abroadcast("other", "first")
        assert await ws.receive() == "first"
        members = await busy(2, "flood")
        publisher = publisher_of("default")

        def flood() -> None:
            for number in range(100):
                publisher.publish([("flood", seal(number))])

        flooding = asyncio.create_task(asyncio.to_thread(flood))
        await until(lambda: the_hub()._arrivals.is_crowded("flood"))
        assert not flooding.done()
        await abroadcast("other", 1)
        assert await ws.receive() == 1
        assert not flooding.done()
        await flooding
        await until(lambda: len(members[-1].got) == 100)
        assert [member.got for member in members] == [[*range(100)]] * 2
        assert the_hub()._arrivals.dropped == 0


async def test_who_floods_a_topic_of_this_process_is_told_after_a_while(
    small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "PUBLISH_SECONDS", 0.01)
    async with client(Room):
        hub = the_hub() if running_hub("default") else None
        assert hub is not None
        monkeypatch.setattr(hub.topics.backend, "is_crowded", lambda topic: topic == "flood")
        await busy(1, "flood")
        with pytest.raises(BroadcastError, match="too much of 'flood' waits"):
            await abroadcast("flood", 1)
        await abroadcast("other", 1)
