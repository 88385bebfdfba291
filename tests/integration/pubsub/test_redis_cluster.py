"""Broadcasts through a real Redis Cluster: the contract, and a cluster that is well."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from itertools import count
from uuid import uuid4

import pytest
from redis.crc import key_slot

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends.redis import RedisBackend, RedisPublisher
from django_ws.pubsub.backends.redis_cluster.backend import ClusterBackend, ClusterPublisher
from django_ws.testing.contract import BackendContract
from tests.support.listening import Listening, channel_of, eventually
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer, free_port


@pytest.fixture(scope="module")
def started_cluster() -> Iterator[RedisCluster]:
    with RedisCluster(has_replica=True) as cluster:
        yield cluster


@pytest.fixture
def cluster(started_cluster: RedisCluster) -> Iterator[RedisCluster]:
    yield started_cluster
    started_cluster.mend()


@pytest.fixture
def prefix() -> str:
    return f"{uuid4().hex}:"


@pytest.fixture
def publisher(cluster: RedisCluster, prefix: str) -> Iterator[ClusterPublisher]:
    publisher = ClusterPublisher(cluster.location, prefix, {})
    yield publisher
    publisher.close()


def topics_of(cluster: RedisCluster, node: RedisServer, prefix: str, number: int = 1) -> list[str]:
    """Topics that the node serves."""
    slots = cluster.slots_of(node)
    found = (t for t in (f"topic {n}" for n in count()) if slot_of(prefix, t) in slots)
    return [next(found) for _ in range(number)]


def slot_of(prefix: str, topic: str) -> int:
    return key_slot(channel_of(prefix, topic))


def masters_of(cluster: RedisCluster) -> list[RedisServer]:
    """The owners of the three shards now, whoever has been promoted meanwhile."""
    return [cluster.owner_of(slot) for slot in (0, 8000, 16000)]


class TestContract(BackendContract):
    backend_class = ClusterBackend

    @pytest.fixture(autouse=True)
    def server(self, cluster: RedisCluster) -> None:
        self.location = cluster.location


# A cluster that is well


def test_a_list_of_nodes_means_a_cluster() -> None:
    location = ["redis://127.0.0.1:7000"]
    assert isinstance(RedisBackend.for_location(location, "", {}), ClusterBackend)
    assert isinstance(RedisPublisher.for_location(location, "", {}), ClusterPublisher)


async def test_hundreds_of_topics_in_all_shards_take_one_connection_to_each(
    cluster: RedisCluster, prefix: str
) -> None:
    topics = [f"{n}" for n in range(600)]
    async with Listening(cluster.location, *topics, prefix=prefix) as here:
        channels = {channel_of(prefix, topic) for topic in topics}
        for node in masters_of(cluster):
            slots = cluster.slots_of(node)
            served = {channel for channel in channels if key_slot(channel) in slots}
            assert len(served) > 100
            assert served <= cluster.subscribed(node)
            assert len(cluster.listeners(node)) == 1
        sent = [(topic, topic.encode()) for topic in topics] * 2
        await here.backend.publish_many(sent)
        await here.has(messages=len(sent))
        assert sorted(here.messages) == sorted(sent)
        assert not here.gaps


async def test_it_listens_only_where_a_topic_is(cluster: RedisCluster, prefix: str) -> None:
    first, second, third = masters_of(cluster)
    (here_topic,), (there_topic,) = (topics_of(cluster, n, prefix) for n in (first, second))
    async with Listening(cluster.location, here_topic, there_topic, prefix=prefix) as here:
        assert [len(cluster.listeners(n)) for n in (first, second, third)] == [1, 1, 0]
        await here.backend.unsubscribe([there_topic])
        await eventually(lambda: not cluster.listeners(second), "the end of the connection")
        await here.backend.publish_many([(there_topic, b"nobody hears it"), (here_topic, b"hi")])
        await here.has(messages=1)
        assert here.messages == [(here_topic, b"hi")]


async def test_what_is_given_back_is_unsubscribed(cluster: RedisCluster, prefix: str) -> None:
    node = masters_of(cluster)[1]
    gone, kept = topics_of(cluster, node, prefix, 2)
    async with Listening(cluster.location, gone, kept, prefix=prefix) as here:
        channels = [channel_of(prefix, topic) for topic in (gone, kept)]
        assert set(channels) <= cluster.subscribed(node)
        await here.backend.unsubscribe([gone])
        await eventually(lambda: channels[0] not in cluster.subscribed(node))
        assert channels[1] in cluster.subscribed(node)


async def test_subscribe_ends_for_who_waits_when_the_topic_is_taken_back_or_all_ends(
    prefix: str,
) -> None:
    location = [("127.0.0.1", free_port())]  # nobody is there
    async with Listening(location, prefix=prefix) as here:
        one = asyncio.create_task(here.backend.subscribe(["one", "two"]))
        two = asyncio.create_task(here.backend.subscribe(["two"]))
        await asyncio.sleep(0)
        await here.backend.unsubscribe(["one"])
        await here.backend.unsubscribe(["two"])
        for waiting in (one, two):
            with pytest.raises(BroadcastError, match="taken back"):
                await waiting
        three = asyncio.create_task(here.backend.subscribe(["three"]))
        await asyncio.sleep(0)
    with pytest.raises(BroadcastError, match="subscribe failed at Redis Cluster"):
        await three


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_after_a_fork_parent_and_child_publish_over_connections_of_their_own(
    cluster: RedisCluster, prefix: str, publisher: ClusterPublisher
) -> None:
    async with Listening(cluster.location, "a", prefix=prefix) as here:
        publisher.publish([("a", b"before")])
        with publisher._lock, publisher._asking:  # as another thread may hold them
            child = os.fork()
        if not child:  # pragma: no cover - coverage does not see what ends by _exit
            code = 1
            try:
                publisher.publish([("a", b"child")])
                publisher.close()
                code = 0
            finally:
                os._exit(code)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        publisher.publish([("a", b"parent")])
        await here.has(messages=3)
        assert [data for _, data in here.messages] == [b"before", b"child", b"parent"]


# Slots that move, with all nodes running


async def test_a_moved_slot_is_followed_and_its_topic_told_of_a_gap(
    cluster: RedisCluster, prefix: str
) -> None:
    source, target, _ = masters_of(cluster)
    moved, kept = topics_of(cluster, source, prefix, 2)
    channel = channel_of(prefix, moved)
    async with Listening(cluster.location, moved, kept, prefix=prefix) as here:
        assert channel in cluster.subscribed(source)
        cluster.move_slot(slot_of(prefix, moved), target)
        assert cluster.owner_of(slot_of(prefix, moved)) is target
        assert channel not in cluster.subscribed(source)  # it was taken from the listener
        await here.has(gaps=1)
        assert here.gaps == [{moved}]
        assert channel in cluster.subscribed(target)
        await here.backend.publish_many([(moved, b"1"), (kept, b"2"), (moved, b"3")])
        await here.has(messages=3)
        assert sorted(here.messages) == sorted([(moved, b"1"), (moved, b"3"), (kept, b"2")])
        assert here.messages.index((moved, b"1")) < here.messages.index((moved, b"3"))
        assert len(here.gaps) == 1


async def test_messages_sent_before_a_move_arrive_before_those_sent_after_it(
    cluster: RedisCluster, prefix: str
) -> None:
    source, target, _ = masters_of(cluster)
    (topic,) = topics_of(cluster, source, prefix)
    async with Listening(cluster.location, topic, prefix=prefix) as here:
        await here.backend.publish_many([(topic, b"%d" % n) for n in range(100)])
        cluster.move_slot(slot_of(prefix, topic), target)
        await here.has(gaps=1)
        await here.backend.publish_many([(topic, b"%d" % n) for n in range(100, 200)])
        await here.has(messages=200)
        assert here.messages == [(topic, b"%d" % n) for n in range(200)]
        assert here.received.index(here.received[100]) == 100
        assert not isinstance(here.received[100], tuple)  # the gap is told in its place


async def test_publishing_with_an_old_map_follows_and_nothing_arrives_twice(
    cluster: RedisCluster, prefix: str, publisher: ClusterPublisher
) -> None:
    source, target, _ = masters_of(cluster)
    (topic,) = topics_of(cluster, source, prefix)
    others = [f"other {n}" for n in range(50)]
    async with (
        Listening(cluster.location, topic, *others, prefix=prefix) as here,
        Listening(cluster.location, prefix=prefix) as there,
    ):
        publisher.publish([(topic, b"sync before")])  # both have the map now
        await there.backend.publish(topic, b"async before")
        await here.has(messages=2)
        cluster.move_slot(slot_of(prefix, topic), target)
        await here.has(gaps=1)
        before = rejected(source)
        messages = [(t, b"%d" % n) for n in range(3) for t in (topic, *others)]
        publisher.publish(messages)
        await there.backend.publish_many(messages)
        assert rejected(source) > before  # it was asked in vain
        await here.has(messages=2 + 2 * len(messages))
        assert sorted(here.messages[2:]) == sorted(2 * messages)
        assert [d for t, d in here.messages[2:] if t == topic] == [b"0", b"1", b"2"] * 2


def rejected(node: RedisServer) -> int:
    stats = node.ask("INFO", "commandstats")
    return int(stats.get("cmdstat_spublish", {"rejected_calls": 0})["rejected_calls"])


async def test_subscribing_with_an_old_map_follows(cluster: RedisCluster, prefix: str) -> None:
    source, target, _ = masters_of(cluster)
    topic, known = topics_of(cluster, source, prefix, 2)
    async with Listening(cluster.location, known, prefix=prefix) as here:
        cluster.move_slot(slot_of(prefix, topic), target)
        await here.subscribe(topic)
        assert channel_of(prefix, topic) in cluster.subscribed(target)
        await here.backend.publish(topic, b"hi")
        await here.has(messages=1)
        assert here.messages == [(topic, b"hi")]
        assert not here.gaps  # nothing was missed after subscribe() had returned


async def test_a_replica_promoted_in_peace_is_followed(cluster: RedisCluster, prefix: str) -> None:
    old = cluster.owner_of(0)
    (replica,) = [n for n in (cluster.nodes[0], cluster.nodes[-1]) if n is not old]
    topics = topics_of(cluster, old, prefix, 20)
    (elsewhere,) = topics_of(cluster, masters_of(cluster)[1], prefix)
    async with Listening(cluster.location, *topics, elsewhere, prefix=prefix) as here:
        replica.ask("CLUSTER", "FAILOVER")
        await eventually(lambda: replica.ask("ROLE")[0] == b"master", "the promotion")
        await eventually(lambda: set().union(*here.gaps) == set(topics), "the gaps")
        # At either node of the shard: what is published in a shard reaches all its nodes.
        assert len(cluster.listeners(replica)) + len(cluster.listeners(old)) == 1
        sent = [(topic, b"hi") for topic in (*topics, elsewhere)]
        await here.backend.publish_many(sent)
        await here.has(messages=len(sent))
        assert sorted(here.messages) == sorted(sent)
