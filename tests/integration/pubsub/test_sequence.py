"""A broadcast that comes after newer ones of its publisher is dropped, and a gap is told."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import deque
from contextlib import ExitStack
from itertools import count
from typing import Any

import pytest
import redis
import zmq
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends.base import Gap, SyncPublisher
from django_ws.pubsub.backends.redis import RedisPublisher
from django_ws.pubsub.backends.sequence import HEAD, Receiver, Sender, order_of_gap
from django_ws.pubsub.backends.zeromq import ZeroMQBackend, ZeroMQPublisher
from django_ws.pubsub.backends.zeromq.publisher import (
    dealer,
    hand_over,
    request,
    sized_channel_of,
)
from django_ws.testing.contract import Listener
from tests.integration.pubsub.test_zeromq import BrokerProcess, a_location, listening, until
from tests.support.listening import Listening, channel_of, eventually, until_taken
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer


def sent(sender: Sender, message: bytes) -> bytes:
    """As one call of publish that has ended."""
    with sender.call() as head:
        return head + message


def test_messages_in_order_pass_unchanged() -> None:
    sender, receiver = Sender(), Receiver("here")
    for n in range(5):
        assert receiver.read(sent(sender, b"%d" % n)) == b"%d" % n
    with sender.call() as head:  # several in one call
        assert [receiver.read(head + data) for data in (b"a", b"", b"b")] == [b"a", b"", b"b"]


def test_one_whose_call_had_ended_before_a_newer_one_began_is_late(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sender, receiver = Sender(), Receiver("here")
    first, late, newer = (sent(sender, each) for each in (b"first", b"late", b"newer"))
    assert receiver.read(first) == b"first"
    assert receiver.read(newer) == b"newer"
    assert receiver.read(late) is None
    assert receiver.read(sent(sender, b"newest")) == b"newest"
    (line,) = caplog.messages
    assert "here was dropped: it came after newer ones of its publisher" in line


def test_calls_that_run_at_the_same_time_have_no_order() -> None:
    sender, receiver = Sender(), Receiver("here")
    with sender.call() as slow:
        quick = [sent(sender, b"%d" % n) for n in range(3)]
        assert [receiver.read(each) for each in quick] == [b"0", b"1", b"2"]
        assert receiver.read(slow + b"slow") == b"slow"
    after = sent(sender, b"after")
    assert receiver.read(after) == b"after"
    assert receiver.read(quick[0]) is None


def test_publishers_have_no_order_among_them() -> None:
    one, two, receiver = Sender(), Sender(), Receiver("here")
    old = sent(one, b"old")
    for _ in range(3):
        assert receiver.read(sent(two, b"new")) == b"new"
    assert receiver.read(old) == b"old"


def test_an_order_of_a_gap_is_no_message() -> None:
    sender, receiver = Sender(), Receiver("here")
    with sender.call() as head:
        assert receiver.read(order_of_gap(head)) is None
        assert receiver.read(head + b"message") == b"message"
        assert receiver.read(order_of_gap(head)) is None


@given(st.binary(max_size=60).filter(lambda data: data[:1] not in (b"\x01", b"\x02")))
def test_what_something_else_has_published_is_given_as_it_is(data: bytes) -> None:
    assert Receiver("here").read(data) == data


@pytest.mark.parametrize("size", range(HEAD.size))
def test_what_only_begins_like_a_head_is_given_as_it_is(size: int) -> None:
    with Sender().call() as head:
        assert Receiver("here").read(head[:size]) == head[:size]


def test_only_so_many_publishers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Receiver, "MAX_SENDERS", 4)
    receiver = Receiver("here")
    senders = [Sender() for _ in range(10)]
    late = [sent(sender, b"late") for sender in senders]
    for sender in senders:
        assert receiver.read(sent(sender, b"x")) == b"x"
        assert len(receiver._oldest) <= 4
    assert receiver.read(late[-1]) is None  # the last ones are remembered
    assert receiver.read(late[0]) == b"late"


@given(st.lists(st.integers(0, 3), max_size=40))
def test_nothing_that_one_server_has_taken_is_ever_late(turns: list[int]) -> None:
    """Four threads publish: each turn begins or ends a call, and the server takes it in between."""
    sender, receiver = Sender(), Receiver("here")
    with ExitStack() as stack:
        running: dict[int, tuple[ExitStack, bytes]] = {}
        numbers = count()
        for thread in turns:
            if thread in running:
                call, message = running.pop(thread)
                assert receiver.read(message) is not None
                call.close()
            else:
                call = stack.enter_context(ExitStack())
                running[thread] = call, call.enter_context(sender.call()) + b"%d" % next(numbers)


def test_many_threads_get_heads_of_their_own() -> None:
    sender, heads = Sender(), deque[bytes]()

    def publish() -> None:
        for _ in range(500):
            with sender.call() as head:
                heads.append(head)

    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(heads)) == 4000
    assert sent(sender, b"")[-8:] == (4001).to_bytes(8)  # nothing runs any more


# Real servers


async def fails(publisher: SyncPublisher, topic: str, data: bytes) -> None:
    with pytest.raises(BroadcastError):
        await asyncio.to_thread(publisher.publish, [(topic, data)])


async def received(listener: Listener, last: bytes) -> list[tuple[str, bytes]]:
    got: list[tuple[str, bytes]] = []

    def has_come() -> bool:
        got.extend(listener.waiting())
        return ("a", last) in got

    await until(has_come)
    return got


@pytest.mark.heavy
async def test_a_frozen_master_of_a_cluster_has_lost_its_turn(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It hands on what it finds in its sockets when it goes on, to its successor too."""
    with RedisCluster(has_replica=True) as cluster:
        master = cluster.nodes[0]
        slots = cluster.slots_of(master)
        tag = next(tag for tag in map(str, range(1000)) if key_slot(tag.encode()) in slots)
        topic = f"{{{tag}}}"
        publisher = RedisPublisher.for_location(cluster.location, "t:", {"publish_timeout": 1})
        options = {"publish_timeout": 1.5}
        async with (
            Listening(cluster.location, topic) as here,
            Listening(cluster.location, options=options) as there,
        ):
            await asyncio.to_thread(publisher.publish, [(topic, b"sync")])
            await there.backend.publish(topic, b"async")
            await here.has(messages=2)
            master.freeze()
            await fails(publisher, topic, b"late")
            with pytest.raises(BroadcastError):
                await there.backend.publish(topic, b"late")
            await asyncio.to_thread(cluster.owner_of, 0)
            await here.has(gaps=1)
            await until_taken(publisher, (topic, b"newer"))
            await there.backend.publish(topic, b"newer")
            await here.has(messages=4)
            gaps = len(here.gaps)
            master.thaw()
            await here.has(gaps=gaps + 1)
            if "came after newer ones" not in caplog.text:  # it had heard of its successor first
                await until_taken(publisher, (topic, b"newer"))
                await here.has(messages=5)
            assert {data for _, data in here.messages[2:]} == {b"newer"}
        publisher.close()


async def test_a_frozen_redis_has_lost_its_turn() -> None:
    """Connections of before and after are served in any order then."""
    with RedisServer() as server:
        publishers = [RedisPublisher(server.url, "t:", {"publish_timeout": 0.3}) for _ in range(20)]
        async with Listening(server.url, "a") as here:
            for publisher in publishers:
                publisher.publish([("a", b"%d before" % id(publisher))])
            await here.has(messages=20)
            server.freeze()
            await asyncio.gather(*(fails(each, "a", b"%d late" % id(each)) for each in publishers))
            server.thaw()
            for publisher in publishers:
                await until_taken(publisher, ("a", b"%d after" % id(publisher)))
            await eventually(lambda: sum(b"after" in data for _, data in here.messages) == 20)
            for publisher in publishers:
                own = [d.split()[1] for _, d in here.messages if int(d.split()[0]) == id(publisher)]
                assert own in ([b"before", b"after"], [b"before", b"late", b"after"])
        for publisher in publishers:
            publisher.close()


async def test_a_frozen_broker_has_lost_its_turn() -> None:
    with a_location() as location:
        broker = BrokerProcess(location)
        publisher = ZeroMQPublisher(location, "t:", {"publish_timeout": 0.3})
        async with listening(ZeroMQBackend(location, "t:", {}), "a") as here:
            await asyncio.to_thread(publisher.publish, [("a", b"before")])
            broker.signal(signal.SIGSTOP)
            await fails(publisher, "a", b"late")
            broker.signal(signal.SIGCONT)
            await until_taken(publisher, ("a", b"after"))
            own = [data for _, data in await received(here, b"after")]
            assert own in ([b"before", b"after"], [b"before", b"late", b"after"])
        publisher.close()
        await asyncio.to_thread(broker.stop)


LATE = ["newer", "late", "late", "newest"]


def frames() -> list[bytes]:
    """As one publisher would send them, but for their order."""
    sender = Sender()
    by_name = {name: sent(sender, name.encode()) for name in ("late", "newer", "newest")}
    return [by_name[name] for name in LATE]


async def test_redis_listeners_tell_a_gap_for_a_late_one() -> None:
    with RedisServer() as server, RedisCluster(masters=1) as cluster:
        (node,) = cluster.nodes
        for location, asked, publish in (
            (server.url, server, "PUBLISH"),
            (cluster.location, node, "SPUBLISH"),
        ):
            async with Listening(location, "a") as here:
                client: Any = redis.Redis(unix_socket_path=str(asked.socket_path))
                with client.pipeline() as pipeline:  # all arrive together
                    for frame in frames():
                        pipeline.execute_command(publish, channel_of("t:", "a"), frame)
                    pipeline.execute()
                client.close()
                await here.has(messages=2, gaps=1)
                a_gap = Gap(frozenset({"a"}))  # one for both
                assert here.received == [("a", b"newer"), a_gap, ("a", b"newest")]


async def test_zeromq_listeners_tell_a_gap_for_a_late_one() -> None:
    with a_location() as location:
        broker = BrokerProcess(location)
        async with listening(ZeroMQBackend(location, "t:", {}), "a") as here:
            channel = sized_channel_of("t:", "a")
            publications = [(channel, b"", frame) for frame in frames()]
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            with dealer(context, location, {}) as socket:
                await asyncio.to_thread(hand_over, socket, request(1, publications), 20.0)
            context.term()
            got = await received(here, b"newest")
            assert got == [("a", b"newer"), ("a", b"newest")]
            assert {"a"} in [gap.topics for gap in here.gaps]
        await asyncio.to_thread(broker.stop)
