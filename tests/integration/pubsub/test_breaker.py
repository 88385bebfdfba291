"""A server that does not answer keeps one caller waiting, and the next ones are refused at once."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends import breaker as breaker_module
from django_ws.pubsub.backends.base import SyncPublisher
from django_ws.pubsub.backends.breaker import Breaker, NotTried
from django_ws.pubsub.backends.redis import RedisBackend, RedisPublisher
from django_ws.pubsub.backends.redis_cluster.backend import ClusterBackend, ClusterPublisher
from django_ws.pubsub.backends.zeromq import ZeroMQBackend, ZeroMQPublisher
from tests.integration.pubsub.test_zeromq import BrokerProcess, a_location
from tests.support.listening import Listening, eventually, until_taken
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.heavy

REFUSED = r"it does not answer \(.*\): refused until it answers a probe"
TOO_LATE = r"no answer|took it|not taken"
SECONDS = 0.8  # that publishing may take
CLUSTER_SECONDS = 2.0  # of which each step has a part


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(breaker_module, "time", clock)
    return clock


def test_it_is_closed_at_first() -> None:
    assert Breaker("here").admit() is False
    Breaker("here").check()


def test_after_a_time_out_calls_are_refused_and_one_each_second_probes(clock: Clock) -> None:
    breaker = Breaker("here")
    timeout = TimeoutError()
    breaker.open("no answer in 5 s", timeout)
    for call in (breaker.admit, breaker.check):
        with pytest.raises(NotTried, match=r"no answer in 5 s\): refused until") as refusal:
            call()
        assert refusal.value.__cause__ is timeout
    for _ in range(3):
        clock.now += Breaker.EVERY_SECONDS
        assert breaker.admit() is True
        with pytest.raises(NotTried):  # another thread, meanwhile
            breaker.admit()
    breaker.close()
    assert breaker.admit() is False


def test_where_there_is_hope_it_is_probed_at_once(clock: Clock) -> None:
    breaker = Breaker("here")
    breaker.open("no answer", TimeoutError())
    breaker.probe_soon()
    assert breaker.admit() is True


def test_the_log_says_when_it_begins_and_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    breaker = Breaker("here")
    for _ in range(3):
        breaker.open("no answer", TimeoutError())
    for _ in range(3):
        breaker.close()
    began, ended = caplog.messages
    assert began.startswith("Broadcasts are refused at once: here does not answer (no answer).")
    assert ended == "Broadcasts are taken again: here answers."


def test_only_silence_opens_it() -> None:
    breaker = Breaker("here")
    breaker.failed(ConnectionRefusedError(), "refused", is_silence=False)
    breaker.check()
    breaker.failed(TimeoutError(), "no answer", is_silence=True)
    for _ in range(2):
        with pytest.raises(NotTried) as refusal:
            breaker.check()
        breaker.failed(refusal.value, "not tried", is_silence=False)
    breaker.failed(ConnectionRefusedError(), "refused", is_silence=False)
    breaker.check()  # who asks is told at once, and why


# Real servers


class Freezing:
    """A server that can be frozen, with the two publishers for it."""

    def __init__(self, server: Any, backend: Any, publisher: Any, seconds: float) -> None:
        self.server, self.backend, self.publisher = server, backend, publisher
        self.seconds = seconds

    def freeze(self) -> None:
        self.server.freeze()

    def thaw(self) -> None:
        self.server.thaw()


class FreezingBroker(Freezing):
    def freeze(self) -> None:
        self.server.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.server.signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster(masters=1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    with a_location() as location:
        broker = BrokerProcess(location)
        with closing(ZeroMQPublisher(location, "t:", {})) as patient:
            patient.publish([("a", b"")])  # until it has come up
        yield broker
        broker.stop()


@pytest.fixture(params=["redis", "cluster", "zeromq"])
def freezing(request: pytest.FixtureRequest) -> Iterator[Freezing]:
    options = {"publish_timeout": SECONDS}
    if request.param == "zeromq":
        broker: BrokerProcess = request.getfixturevalue("broker")
        own = ZeroMQBackend(broker.location, "t:", options)
        yield FreezingBroker(broker, own, ZeroMQPublisher(broker.location, "t:", options), SECONDS)
        broker.signal(signal.SIGCONT)
    elif request.param == "redis":
        with RedisServer() as server:
            backend = RedisBackend(server.url, "t:", options)
            yield Freezing(server, backend, RedisPublisher(server.url, "t:", options), SECONDS)
    else:
        options = {"publish_timeout": CLUSTER_SECONDS}
        cluster: RedisCluster = request.getfixturevalue("cluster")
        to_cluster = ClusterBackend(cluster.location, "t:", options)
        publisher = ClusterPublisher(cluster.location, "t:", options)
        yield Freezing(cluster.nodes[0], to_cluster, publisher, CLUSTER_SECONDS)
        cluster.mend()


async def fails(publisher: SyncPublisher, match: str) -> None:
    with pytest.raises(BroadcastError, match=match):
        await asyncio.to_thread(publisher.publish, [("a", b"in vain")])


async def test_a_loop_of_sync_broadcasts_is_not_held_up_by_each(freezing: Freezing) -> None:
    publisher = freezing.publisher
    await asyncio.to_thread(publisher.publish, [("a", b"1")])
    freezing.freeze()
    await fails(publisher, TOO_LATE)
    began = time.monotonic()
    for _ in range(100):
        await fails(publisher, REFUSED)
    # Of which some were probes; each by itself would have been 80 s.
    assert time.monotonic() - began < 40
    freezing.thaw()
    await until_taken(publisher, ("a", b"2"))
    await asyncio.to_thread(publisher.publish, [("a", b"3")])
    publisher.close()


async def test_async_broadcasts_are_not_held_up_either(freezing: Freezing) -> None:
    backend = freezing.backend
    await backend.connect()
    await backend.publish("a", b"1")
    freezing.freeze()
    with pytest.raises(BroadcastError, match=TOO_LATE):
        await backend.publish("a", b"in vain")
    began = time.monotonic()
    for _ in range(100):
        with pytest.raises(BroadcastError, match=REFUSED):
            await backend.publish("a", b"in vain")
    assert time.monotonic() - began < 40
    freezing.thaw()
    async with asyncio.timeout(20):
        while True:
            try:
                await backend.publish("a", b"2")
                break
            except BroadcastError:
                await asyncio.sleep(0.02)
    await backend.close()


async def test_a_probe_that_is_not_answered_changes_nothing(
    freezing: Freezing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Breaker, "EVERY_SECONDS", 0.0)
    backend, publisher = freezing.backend, freezing.publisher
    await backend.connect()
    await backend.publish("a", b"1")
    await asyncio.to_thread(publisher.publish, [("a", b"1")])
    freezing.freeze()
    began = time.monotonic()
    for _ in range(3):
        await fails(publisher, TOO_LATE)
        with pytest.raises(BroadcastError, match=TOO_LATE):
            await backend.publish("a", b"in vain")
    assert time.monotonic() - began < 20
    freezing.thaw()
    await until_taken(publisher, ("a", b"2"))
    await backend.close()
    publisher.close()


async def test_a_caller_who_was_given_up_has_waited_for_nothing(freezing: Freezing) -> None:
    """As by the outbox, whose limit is older than the backend's own."""
    backend = freezing.backend
    await backend.connect()
    await backend.publish("a", b"1")
    freezing.freeze()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(freezing.seconds * 0.7):
            await backend.publish("a", b"in vain")
    with pytest.raises(BroadcastError, match=REFUSED):
        await backend.publish("a", b"in vain")
    freezing.thaw()
    await backend.close()


async def test_a_caller_who_gives_up_early_says_nothing_of_the_server(freezing: Freezing) -> None:
    backend = freezing.backend
    await backend.connect()
    await backend.publish("a", b"1")
    freezing.freeze()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await backend.publish("a", b"in vain")
    with pytest.raises(BroadcastError, match=TOO_LATE):
        await backend.publish("a", b"in vain")
    freezing.thaw()
    await backend.close()


async def test_who_waits_for_a_connection_meanwhile_is_refused_too() -> None:
    options = {"publish_timeout": SECONDS, "max_connections": 1}
    with RedisServer() as server:
        publisher = RedisPublisher(server.url, "t:", options)
        publisher.publish([("a", b"1")])
        server.freeze()
        first = asyncio.create_task(fails(publisher, TOO_LATE))
        await eventually(lambda: not publisher._this_process().free.qsize())
        await asyncio.gather(first, fails(publisher, REFUSED + "|busy"))
        server.thaw()
        publisher.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_a_forked_child_starts_afresh(freezing: Freezing) -> None:
    publisher = freezing.publisher
    await asyncio.to_thread(publisher.publish, [("a", b"1")])
    freezing.freeze()
    await fails(publisher, TOO_LATE)
    freezing.thaw()
    child = os.fork()
    if not child:  # pragma: no cover - coverage does not see what ends by _exit
        code = 1
        try:
            publisher.publish([("a", b"child")])
            code = 0
        finally:
            os._exit(code)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    publisher.close()


@pytest.mark.parametrize("is_sync", [True, False])
async def test_a_frozen_node_of_a_cluster_does_not_stop_broadcasts_to_the_others(
    is_sync: bool,
) -> None:
    with RedisCluster() as cluster:
        first, second, _ = cluster.masters
        frozen, well = (
            next(f"{{{tag}}}" for tag in map(str, range(1000)) if _slot(tag) in slots)
            for slots in map(cluster.slots_of, (first, second))
        )
        options = {"publish_timeout": CLUSTER_SECONDS}
        publisher = ClusterPublisher(cluster.location, "t:", options)
        async with Listening(cluster.location, well, options=options) as here:

            async def publish(topic: str, data: bytes) -> None:
                if is_sync:
                    await asyncio.to_thread(publisher.publish, [(topic, data)])
                else:
                    await here.backend.publish(topic, data)

            for topic in (frozen, well):
                await publish(topic, b"before")
            first.freeze()
            with pytest.raises(BroadcastError, match=TOO_LATE):
                await publish(frozen, b"in vain")
            for n in range(20):
                with pytest.raises(BroadcastError, match=REFUSED):
                    await publish(frozen, b"in vain")
                await publish(well, b"%d" % n)
            assert isinstance(here.backend, ClusterBackend)
            nodes = publisher._nodes if is_sync else here.backend._nodes
            for n in range(20, 22):
                nodes.breaker(("127.0.0.1", first.port)).probe_soon()
                with pytest.raises(BroadcastError, match=f"{TOO_LATE}|{REFUSED}"):
                    await publish(frozen, b"in vain")  # a probe comes before it
                await publish(well, b"%d" % n)
            await here.has(messages=23)
            first.thaw()
        publisher.close()


def _slot(tag: str) -> int:
    from redis.crc import key_slot

    return key_slot(tag.encode())


@pytest.mark.parametrize("seconds", [0, -1, 5.1, "1", None, True, float("nan")])
@pytest.mark.parametrize(
    ("made", "location"),
    [
        (RedisPublisher, "redis://localhost"),
        (RedisBackend, "redis://localhost"),
        (ClusterPublisher, ["redis://localhost"]),
        (ZeroMQPublisher, "ipc:///tmp/nowhere"),
        (ZeroMQBackend, "ipc:///tmp/nowhere"),
    ],
)
def test_a_publish_timeout_that_cannot_be_is_refused(
    made: Any, location: Any, seconds: Any
) -> None:
    with pytest.raises(ValueError, match="OPTIONS: publish_timeout is"):
        made(location, "t:", {"publish_timeout": seconds})


def test_threads_that_meet_at_an_open_breaker_send_one_probe(clock: Clock) -> None:
    breaker = Breaker("here")
    breaker.open("no answer", TimeoutError())
    clock.now += 1.0
    probes: list[bool] = []

    def call() -> None:
        with suppress(NotTried):
            probes.append(breaker.admit())

    threads = [threading.Thread(target=call) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert probes == [True]
