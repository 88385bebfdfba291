"""A node of a Redis Cluster that is cut off from the others, and goes on serving its clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends.redis.listener import SetListener
from django_ws.pubsub.backends.redis_cluster import contact as redis_cluster_contact
from django_ws.pubsub.backends.redis_cluster.backend import ClusterBackend, ClusterPublisher
from django_ws.pubsub.backends.redis_cluster.contact import Contact
from tests.integration.pubsub.test_redis_cluster import masters_of, topics_of
from tests.support.listening import Listening, eventually
from tests.support.redis_cluster import RedisCluster

pytestmark = pytest.mark.heavy

PREFIX = "isolation:"
Message = tuple[str, bytes]
Publish = Callable[[list[Message]], Awaitable[None]]


@pytest.fixture(scope="module")
def started_cluster() -> Iterator[RedisCluster]:
    """Nobody takes the place of a node that is cut off: that it may happen is enough."""
    with RedisCluster(has_proxies=True) as cluster:
        yield cluster


@pytest.fixture
def cluster(started_cluster: RedisCluster) -> Iterator[RedisCluster]:
    yield started_cluster
    started_cluster.mend()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SetListener, "PING_SECONDS", 0.1)
    monkeypatch.setattr(redis_cluster_contact, "CHECK_SECONDS", 0.1)


LOST = "the node has lost contact with the others: it may have been replaced"


@pytest.mark.parametrize("is_sync", [True, False])
async def test_an_isolated_node_is_published_to_no_more(
    cluster: RedisCluster, soon: None, is_sync: bool
) -> None:
    node, other, _ = masters_of(cluster)
    (topic,) = topics_of(cluster, node, PREFIX)
    (elsewhere,) = topics_of(cluster, other, PREFIX)
    options = {"publish_timeout": 2.0}
    publisher = ClusterPublisher(cluster.location, PREFIX, options)
    async with Listening(cluster.location, prefix=PREFIX, options=options) as there:

        async def publish(*topics: str) -> None:
            messages = [(each, b"x") for each in topics]
            if is_sync:
                await asyncio.to_thread(publisher.publish, messages)
            else:
                await there.backend.publish_many(messages)

        await publish(topic, elsewhere)
        cluster.isolate(node)
        with pytest.raises(BroadcastError, match=f":{node.port}: {LOST}"):
            await _until_refused(lambda: publish(topic))
        with pytest.raises(BroadcastError) as caught:
            await publish(topic, elsewhere)
        assert caught.value.errors.keys() == {0}
        publishing = asyncio.ensure_future(_until_taken(lambda: publish(topic)))
        cluster.join_again()
        await publishing
    publisher.close()


async def _until_refused(publish: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(20):
        while True:
            await publish()


async def _until_taken(publish: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await publish()
                return
            except BroadcastError:
                await asyncio.sleep(0.02)


async def test_an_isolated_node_is_listened_to_no_more(
    cluster: RedisCluster, soon: None, caplog: pytest.LogCaptureFixture
) -> None:
    node, other, _ = masters_of(cluster)
    (topic,) = topics_of(cluster, node, PREFIX)
    (elsewhere,) = topics_of(cluster, other, PREFIX)
    async with Listening(cluster.location, topic, elsewhere, prefix=PREFIX) as here:
        cluster.isolate(node)
        await eventually(lambda: f"node 127.0.0.1:{node.port} ({LOST})" in caplog.text)
        await eventually(lambda: not here.backend.is_confirmed(topic))
        assert here.backend.is_confirmed(elsewhere)
        assert here.gaps == []
        cluster.join_again()
        await here.has(gaps=1)
        assert here.gaps == [{topic}]  # it is the same node: nobody was elsewhere
        await here.backend.publish(topic, b"x")
        await here.has(messages=1)


@pytest.mark.parametrize("is_sync", [True, False])
async def test_what_a_node_has_taken_while_it_lost_contact_is_an_error(
    cluster: RedisCluster, is_sync: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was asked before, and the answers took long, as while the process stood still."""
    node, other, _ = masters_of(cluster)
    (topic,) = topics_of(cluster, node, PREFIX)
    (elsewhere,) = topics_of(cluster, other, PREFIX)
    publisher = ClusterPublisher(cluster.location, PREFIX, {})
    async with Listening(cluster.location, prefix=PREFIX) as there:
        messages = [(topic, b"1"), (elsewhere, b"2")]

        async def publish() -> None:
            if is_sync:
                await asyncio.to_thread(publisher.publish, messages)
            else:
                await there.backend.publish_many(messages)

        await publish()
        assert isinstance(there.backend, ClusterBackend)
        address = ("127.0.0.1", node.port)
        asked = publisher._node_pools[address] if is_sync else there.backend._connections[address]
        name = "contact" if is_sync else "_contact"
        # It has been isolated for long, and this is what it has said before.
        cluster.isolate(node)
        await eventually(lambda: b"cluster_state:fail" in node.ask("CLUSTER", "INFO"))
        old: Contact = getattr(asked, name)

        def require(self: Contact) -> None:
            """As it would be before the publishing: there is time left."""
            if self.asked_at != old.asked_at:
                real(self)

        real = Contact.require
        monkeypatch.setattr(Contact, "require", require)
        monkeypatch.setattr(Contact, "is_recent", lambda self: True)
        setattr(asked, name, old._replace(until=time.monotonic()))
        with pytest.raises(BroadcastError, match=LOST) as caught:
            await publish()
        assert caught.value.errors.keys() == {0}
    publisher.close()


@pytest.mark.parametrize("is_sync", [True, False])
async def test_a_node_that_is_well_may_take_long(
    cluster: RedisCluster, is_sync: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, *_ = masters_of(cluster)
    (topic,) = topics_of(cluster, node, PREFIX)
    publisher = ClusterPublisher(cluster.location, PREFIX, {})
    async with Listening(cluster.location, topic, prefix=PREFIX) as here:
        monkeypatch.setattr(Contact, "is_recent", lambda self: True)
        monkeypatch.setattr(Contact, "require", lambda self: None)
        for n in range(3):  # nothing was asked before: its contact has no time left
            if is_sync:
                await asyncio.to_thread(publisher.publish, [(topic, b"%d" % n)])
            else:
                await here.backend.publish(topic, b"%d" % n)
        await here.has(messages=3)
    publisher.close()


async def test_a_topic_that_another_node_has_taken_over_gets_a_second_gap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Contact, "doubt_seconds", 2.0)
    with RedisCluster(has_replica=True) as cluster:
        master = cluster.owner_of(0)
        topics = topics_of(cluster, master, PREFIX, 3)
        (elsewhere,) = topics_of(cluster, masters_of(cluster)[1], PREFIX)
        async with Listening(cluster.location, *topics, elsewhere, prefix=PREFIX) as here:
            master.kill()
            await eventually(lambda: set().union(*here.gaps) == set(topics))
            first, began = len(here.gaps), time.monotonic()
            await here.backend.unsubscribe(topics[:1])
            await here.has(gaps=first + 1)
            await eventually(lambda: set().union(*here.gaps[first:]) == set(topics[1:]))
            assert time.monotonic() - began > 1.0
            assert isinstance(here.backend, ClusterBackend)
            assert not here.backend._listener._second_gaps


async def test_whether_a_node_answers_the_listener_finds_out_itself(
    cluster: RedisCluster, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question goes over another connection: that may fail for itself."""
    node, *_ = masters_of(cluster)
    (topic,) = topics_of(cluster, node, PREFIX)
    asked = 0

    async def contact(_: object) -> Contact:
        nonlocal asked
        asked += 1
        raise ConnectionResetError

    async with Listening(cluster.location, prefix=PREFIX) as here:
        assert isinstance(here.backend, ClusterBackend)
        monkeypatch.setattr(here.backend._listener, "contact", contact)
        await here.subscribe(topic)
        await eventually(lambda: asked > 5)
        await here.backend.publish(topic, b"x")
        await here.has(messages=1)
        assert here.gaps == []
