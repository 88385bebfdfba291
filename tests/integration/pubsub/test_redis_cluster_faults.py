"""A Redis Cluster whose nodes are cut off, killed, frozen, or of an older kind."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack

import pytest

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends.redis.listener import SetListener
from django_ws.pubsub.backends.redis.outage import Outage
from django_ws.pubsub.backends.redis_cluster.backend import ClusterBackend, ClusterPublisher
from django_ws.pubsub.outbox import outbox
from django_ws.pubsub.outbox.outbox import Outbox
from tests.integration.pubsub.test_redis_cluster import masters_of, slot_of, topics_of
from tests.support.listening import Listening, channel_of, eventually
from tests.support.redis_cluster import SLOTS, RedisCluster
from tests.support.redis_server import Proxy, RedisServer, free_port

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def started_cluster() -> Iterator[RedisCluster]:
    with RedisCluster(has_replica=True) as cluster:
        yield cluster


@pytest.fixture
def cluster(started_cluster: RedisCluster) -> Iterator[RedisCluster]:
    yield started_cluster
    started_cluster.mend()


PREFIX = "faults:"
Message = tuple[str, bytes]


@pytest.fixture(scope="module")
def started_lone_node() -> Iterator[RedisCluster]:
    with RedisCluster(masters=1) as cluster:
        yield cluster


@pytest.fixture
def lone_node(started_lone_node: RedisCluster) -> Iterator[RedisCluster]:
    """A cluster of one node, which is quick to take down."""
    yield started_lone_node
    (node,) = started_lone_node.nodes
    if node.process is not None and node.state() == "T":
        node.thaw()
    if missing := set(range(SLOTS)) - started_lone_node.slots_of(node):
        node.ask("CLUSTER", "ADDSLOTS", *missing)
    node.ask("CONFIG", "SET", "cluster-announce-port", 0)
    node.ask("CONFIG", "SET", "cluster-require-full-coverage", "yes")
    node.ask("ACL", "SETUSER", "default", "+@all")
    started_lone_node.mend()


@pytest.fixture
def publisher(cluster: RedisCluster) -> Iterator[ClusterPublisher]:
    publisher = ClusterPublisher(cluster.location, PREFIX, {})
    yield publisher
    publisher.close()


async def test_a_cut_connection_comes_back_and_the_topics_of_its_shard_are_told_of_a_gap(
    cluster: RedisCluster, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, _ = masters_of(cluster)
    lost = topics_of(cluster, first, PREFIX, 3)
    (kept,) = topics_of(cluster, second, PREFIX)
    async with Listening(cluster.location, *lost, kept, prefix=PREFIX) as here:
        (before,) = cluster.listeners(first)
        assert first.ask("CLIENT", "KILL", "TYPE", "pubsub") == 1
        await here.has(gaps=1)
        (after,) = cluster.listeners(first)
        assert before["id"] != after["id"]
        await eventually(lambda: set().union(*here.gaps) == set(lost))
        sent = [(topic, b"hi") for topic in (*lost, kept)]
        await here.backend.publish_many(sent)
        await here.has(messages=len(sent))
        assert sorted(here.messages) == sorted(sent)
    away, back = [r.getMessage() for r in caplog.records if r.name == "django.ws"]
    assert away.startswith("Some broadcasts do not arrive: no connection to Redis Cluster, node ")
    assert f":{first.port} (" in away
    assert back.startswith("Broadcasts arrive again from Redis Cluster (127.0.0.1:")


async def test_a_killed_master_is_replaced_by_its_replica(
    cluster: RedisCluster, publisher: ClusterPublisher
) -> None:
    master = cluster.owner_of(0)
    topics = topics_of(cluster, master, PREFIX, 50)
    (elsewhere,) = topics_of(cluster, masters_of(cluster)[1], PREFIX)
    async with Listening(cluster.location, *topics, elsewhere, prefix=PREFIX) as here:
        publisher.publish([(topics[0], b"sync before")])
        await here.backend.publish(topics[0], b"async before")
        await here.has(messages=2)
        master.kill()
        for publish in (here.backend.publish_many, in_thread(publisher)):
            with pytest.raises(BroadcastError, match=f"node 127.0.0.1:{master.port}: .*[Cc]onnect"):
                await publish([(topics[0], b"in vain")])
        promoted = await asyncio.to_thread(cluster.owner_of, 0)
        assert promoted is not master
        assert promoted.ask("ROLE")[0] == b"master"
        await eventually(lambda: set().union(*here.gaps) == set(topics), "the gaps")
        assert len(cluster.listeners(promoted)) == 1
        await asyncio.to_thread(cluster.until_ok)
        sent = [(topic, b"hi") for topic in (*topics, elsewhere)]
        await here.backend.publish_many(sent)
        await asyncio.to_thread(publisher.publish, sent)
        await here.has(messages=2 + 2 * len(sent))
        assert sorted(here.messages[2:]) == sorted(2 * sent)


def in_thread(publisher: ClusterPublisher) -> Callable[[list[Message]], Awaitable[None]]:
    return lambda messages: asyncio.to_thread(publisher.publish, messages)


async def test_a_frozen_master_is_noticed_by_its_silence(
    cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SetListener, "PING_SECONDS", 0.3)
    monkeypatch.setattr(SetListener, "PONG_SECONDS", 0.4)
    master = cluster.owner_of(0)
    (topic,) = topics_of(cluster, master, PREFIX)
    async with Listening(cluster.location, topic, prefix=PREFIX) as here:
        master.freeze()
        assert master.state() == "T"
        await here.has(gaps=1)
        promoted = await asyncio.to_thread(cluster.owner_of, 0)
        assert promoted is not master
        await here.backend.publish(topic, b"hi")
        await here.has(messages=1)
        assert here.messages == [(topic, b"hi")]


async def test_publishing_to_a_frozen_master_ends_in_time_and_says_where(
    cluster: RedisCluster,
) -> None:
    options = {"publish_timeout": 1.8}
    publisher = ClusterPublisher(cluster.location, PREFIX, options)
    master = cluster.owner_of(0)
    (topic,) = topics_of(cluster, master, PREFIX)
    async with Listening(cluster.location, prefix=PREFIX, options=options) as here:
        for publish in (here.backend.publish_many, in_thread(publisher)):
            await publish([(topic, b"before")])  # now it has the map and a connection
        master.freeze()

        async def fails(publish: Callable[[list[Message]], Awaitable[None]]) -> None:
            with pytest.raises(
                BroadcastError, match=f"node 127.0.0.1:{master.port}: .*"
            ) as failure:
                await publish([(topic, b"in vain")])
            assert isinstance(failure.value.__cause__, TimeoutError)

        await asyncio.gather(fails(here.backend.publish_many), fails(in_thread(publisher)))
    publisher.close()


async def test_a_frozen_master_holds_up_no_broadcast_to_the_others(
    cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "PUBLISH_SECONDS", 2.0)
    options = {"publish_timeout": 2.0}
    # The others would replace it, and then it would not hold up anybody.
    for node in cluster.nodes:
        node.ask("CONFIG", "SET", "cluster-node-timeout", 60_000)
    master = cluster.owner_of(0)
    (frozen,) = topics_of(cluster, master, PREFIX)
    others = [topics_of(cluster, node, PREFIX)[0] for node in masters_of(cluster)[1:]]
    try:
        async with Listening(cluster.location, *others, prefix=PREFIX, options=options) as here:
            sending = Outbox(
                asyncio.get_running_loop(), here.backend.publish_many, lambda: here.backend
            )
            await sending.put([(topic, b"0") for topic in (frozen, *others)])
            master.freeze()
            in_vain = [asyncio.ensure_future(failure(sending, frozen)) for _ in range(5)]
            for n in range(1, 100):
                await sending.put([(topic, b"%d" % n) for topic in others])
                assert n > 1 or not any(each.done() for each in in_vain)
                assert master.state() == "T"
            for error in await asyncio.gather(*in_vain):
                assert "not taken within" in error.reason
            # Now it is known to be away, and is asked for nothing that another may answer.
            await sending.put([(topic, b"100") for topic in others])
            await here.has(messages=202)
            for topic in others:
                got = [int(data) for name, data in here.messages if name == topic]
                assert got == list(range(101))
            sending.close()
    finally:
        master.thaw()
        for node in cluster.nodes:
            node.ask("CONFIG", "SET", "cluster-node-timeout", 1000)


async def failure(sending: Outbox, topic: str) -> BroadcastError:
    with pytest.raises(BroadcastError) as caught:
        await sending.put([(topic, b"in vain")])
    return caught.value


async def test_a_message_that_is_refused_takes_no_other_with_it(lone_node: RedisCluster) -> None:
    (node,) = lone_node.nodes
    node.ask("ACL", "SETUSER", "default", "resetchannels", f"&{PREFIX}*[ab]")
    try:
        async with Listening(lone_node.location, "a", "b", prefix=PREFIX) as here:
            sent = [("a", b"1"), ("forbidden", b"2"), ("b", b"3")]
            with pytest.raises(BroadcastError, match=r"(?i)no permissions|noperm") as caught:
                await here.backend.publish_many(sent)
            assert caught.value.errors.keys() == {1}
            await here.has(messages=2)
            assert here.messages == [("a", b"1"), ("b", b"3")]
    finally:
        node.ask("ACL", "SETUSER", "default", "allchannels")


async def test_nodes_that_may_not_be_asked_how_they_are_are_relied_upon(
    lone_node: RedisCluster,
) -> None:
    (node,) = lone_node.nodes
    node.ask("ACL", "SETUSER", "default", "-cluster|nodes", "-config", "-time")
    publisher = ClusterPublisher(lone_node.location, PREFIX, {})
    try:
        async with Listening(lone_node.location, "a", prefix=PREFIX) as here:
            for _ in range(2):
                await here.backend.publish("a", b"async")
                await asyncio.to_thread(publisher.publish, [("a", b"sync")])
            await here.has(messages=4)
    finally:
        node.ask("ACL", "SETUSER", "default", "+@all")
    publisher.close()


async def test_a_connection_that_the_node_has_closed_is_replaced(lone_node: RedisCluster) -> None:
    (node,) = lone_node.nodes
    publisher = ClusterPublisher(lone_node.location, PREFIX, {})
    async with Listening(lone_node.location, "a", prefix=PREFIX) as here:
        for n in range(3):
            await here.backend.publish("a", b"async %d" % n)
            await asyncio.to_thread(publisher.publish, [("a", b"sync %d" % n)])
            node.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await here.has(messages=6)
        assert here.gaps == []
    publisher.close()


async def test_all_is_tried_again_while_the_cluster_is_down(
    lone_node: RedisCluster, caplog: pytest.LogCaptureFixture
) -> None:
    (node,) = lone_node.nodes
    publisher = ClusterPublisher(lone_node.location, PREFIX, {})
    async with Listening(lone_node.location, "a", "back", prefix=PREFIX) as here:
        node.kill()
        for publish in (here.backend.publish_many, in_thread(publisher)):
            with pytest.raises(BroadcastError, match=f"node 127.0.0.1:{node.port}: .*[Cc]onnect"):
                await publish([("a", b"in vain")])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await here.backend.subscribe(["b"])
        await here.backend.unsubscribe(["b", "back"])
        waiting = asyncio.create_task(here.backend.subscribe(["c"]))
        node.start()
        await waiting
        await here.has(gaps=1)
        assert here.gaps == [{"a"}]  # alone: "c" was never there, "back" is not any more
        channels = {channel_of(PREFIX, topic) for topic in "ac"}
        assert lone_node.subscribed(node) == channels
        await here.backend.publish_many([("a", b"1"), ("b", b"2"), ("c", b"3")])
        await asyncio.to_thread(publisher.publish, [("a", b"4")])
        await here.has(messages=3)
        assert sorted(here.messages) == [("a", b"1"), ("a", b"4"), ("c", b"3")]
    publisher.close()
    lines = [r.getMessage() for r in caplog.records if r.name == "django.ws"]
    assert len(lines) == 2, lines  # away and back, however often it was tried


async def test_a_slot_that_nobody_serves_is_waited_for(
    lone_node: RedisCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (node,) = lone_node.nodes
    node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
    slot = slot_of(PREFIX, "a")
    kept = next(t for t in ("b", "c") if slot_of(PREFIX, t) != slot)
    publisher = ClusterPublisher(lone_node.location, PREFIX, {})
    async with Listening(lone_node.location, "a", kept, prefix=PREFIX) as here:
        ways = here.backend.publish_many, in_thread(publisher)
        for publish in ways:
            await publish([("a", b"before")])
        await here.has(messages=2)
        node.ask("CLUSTER", "DELSLOTS", slot)
        assert lone_node.subscribed(node) == {channel_of(PREFIX, kept)}
        assert isinstance(here.backend, ClusterBackend)
        with monkeypatch.context() as patch:
            for nodes in (here.backend._nodes, publisher._nodes):
                patch.setattr(nodes, "publish_seconds", 0.5)
                patch.setattr(nodes, "step_seconds", 0.15)
            for publish in ways:
                with pytest.raises(BroadcastError, match=r"at Redis Cluster.* slot"):
                    await publish([("a", b"in vain")])
        before = questions(node)
        waiting = [asyncio.ensure_future(publish([("a", b"later")])) for publish in ways]
        await eventually(lambda: questions(node) > before + 5, "questions for the slots")
        assert not any(each.done() for each in waiting)
        node.ask("CLUSTER", "ADDSLOTS", slot)
        await asyncio.gather(*waiting)
        await here.has(gaps=1)
        assert here.gaps == [{"a"}]
        await here.backend.publish_many([("a", b"after"), (kept, b"after")])
        await here.has(messages=4)
        assert {("a", b"after"), (kept, b"after")} <= set(here.messages)
        assert ("a", b"in vain") not in here.messages
    publisher.close()
    assert "no node serves the topic's slot" in caplog.text


def questions(node: RedisServer) -> int:
    return calls(node, "cluster|slots")


def pings(node: RedisServer) -> int:
    return calls(node, "ping")


def calls(node: RedisServer, command: str) -> int:
    stats = node.ask("INFO", "commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


OLDER = ('rename-command SSUBSCRIBE ""', 'rename-command SPUBLISH ""')


async def test_servers_without_sharded_pubsub_get_plain_pubsub() -> None:
    with RedisCluster(*OLDER) as cluster:
        topics = [f"{n}" for n in range(50)]
        publisher = ClusterPublisher(cluster.location, PREFIX, {})
        async with Listening(cluster.location, *topics, prefix=PREFIX) as here:
            (node,) = [node for node in cluster.nodes if cluster.listeners(node)]  # one is enough
            channels = {channel_of(PREFIX, topic) for topic in topics}
            assert cluster.subscribed(node, sharded=False) == channels
            sent = [(topic, b"hi") for topic in topics]
            await here.backend.publish_many(sent)
            await asyncio.to_thread(publisher.publish, sent)
            await here.has(messages=100)
            assert sorted(here.messages) == sorted(2 * sent)
            await here.backend.unsubscribe(topics[1:])
            await eventually(
                lambda: cluster.subscribed(node, sharded=False) == {channel_of(PREFIX, "0")}
            )
            node.kill()
            await here.has(gaps=1)
            assert here.gaps == [{"0"}]
            (other,) = [n for n in cluster.nodes if n is not node and cluster.listeners(n)]
            assert cluster.subscribed(other, sharded=False) == {channel_of(PREFIX, "0")}
        publisher.close()


async def test_a_password_is_used_and_never_shown() -> None:
    with RedisCluster("requirepass s3cret", masters=1) as cluster:
        (node,) = cluster.nodes
        location = [f"redis://:s3cret@127.0.0.1:{node.port}"]
        async with Listening(location, "a", prefix=PREFIX) as here:
            await here.backend.publish("a", b"hi")
            await here.has(messages=1)
            assert "s3cret" not in here.backend.server
        wrong = ClusterPublisher([("127.0.0.1", node.port)], PREFIX, {"password": "wr0ng"})
        with pytest.raises(BroadcastError, match=f"node 127.0.0.1:{node.port}") as failure:
            wrong.publish([("a", b"hi")])
        wrong.close()
        assert "wr0ng" not in str(failure.value)


async def test_a_server_that_is_no_cluster_is_said_to_be_none() -> None:
    with RedisServer() as server:
        async with Listening([("127.0.0.1", server.port)]) as here:
            with pytest.raises(BroadcastError, match="cluster support disabled"):
                await here.backend.publish("a", b"hi")


async def test_the_nodes_may_be_reached_under_other_addresses(lone_node: RedisCluster) -> None:
    (node,) = lone_node.nodes
    node.ask("CONFIG", "SET", "cluster-announce-port", free_port())
    options = {"address_remap": lambda address: (address[0], node.port)}
    async with Listening(lone_node.location, "a", prefix=PREFIX, options=options) as here:
        await here.backend.publish("a", b"hi")
        await here.has(messages=1)


async def test_a_connection_cut_while_it_publishes_is_an_error_and_nothing_is_sent_twice(
    lone_node: RedisCluster,
) -> None:
    (node,) = lone_node.nodes
    with Proxy(node.port) as proxy:
        options = {"address_remap": lambda address: (address[0], proxy.port)}
        publisher = ClusterPublisher(lone_node.location, PREFIX, options)
        async with (
            Listening(lone_node.location, "a", prefix=PREFIX) as here,
            Listening(lone_node.location, prefix=PREFIX, options=options) as there,
        ):
            for publish in (there.backend.publish_many, in_thread(publisher)):
                await publish([("a", b"before")])
                before = proxy.held
                proxy.hold()
                publishing = asyncio.ensure_future(publish([("a", b"cut")]))
                await eventually(lambda: proxy.held > before, "the message on its way")  # noqa: B023
                proxy.cut()
                proxy.go_on()
                with pytest.raises(BroadcastError, match=f"node 127.0.0.1:{proxy.port}"):
                    await publishing
                await publish([("a", b"after")])
            await here.has(messages=4)
            arrived = [data for _, data in here.messages]
            assert [data for data in arrived if data != b"cut"] == [b"before", b"after"] * 2
            assert arrived.count(b"cut") <= 2  # of the two that were sent
        publisher.close()


async def test_nodes_that_accept_and_say_nothing_are_given_up_in_time() -> None:
    options = {"publish_timeout": 0.3}
    with ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            for _ in range(5)  # too many to be asked one after the other
        ]
        location = [("127.0.0.1", each.getsockname()[1]) for each in silent]
        publisher = ClusterPublisher(location, PREFIX, options)
        async with Listening(location, prefix=PREFIX, options=options) as here:
            for publish in (here.backend.publish_many, in_thread(publisher)):
                with pytest.raises(BroadcastError, match=r"at Redis Cluster, node 127\.0\.0\.1"):
                    await publish([("a", b"hi")])
        publisher.close()


class Interrupted(Exception): ...


def test_an_interrupted_publish_leaves_no_answers_behind(lone_node: RedisCluster) -> None:
    """As by a soft time limit of Celery, which raises in the middle of anything."""
    (node,) = lone_node.nodes
    publisher = ClusterPublisher(lone_node.location, PREFIX, {"publish_timeout": 2.0})
    publisher.publish([("a", b"before")])

    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        node.freeze()
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Interrupted):
            publisher.publish([("a", b"interrupted")])
    finally:
        signal.signal(signal.SIGALRM, before)
        node.thaw()
    node.ask("CLUSTER", "DELSLOTS", slot_of(PREFIX, "a"))
    with pytest.raises(BroadcastError):  # and not the answer to what was interrupted
        publisher.publish([("a", b"refused")])
    publisher.close()


def test_a_message_too_large_for_a_frozen_node_to_take_is_given_up(
    lone_node: RedisCluster,
) -> None:
    (node,) = lone_node.nodes
    publisher = ClusterPublisher(lone_node.location, PREFIX, {"publish_timeout": 1})
    publisher.publish([("a", b"before")])
    node.freeze()
    with pytest.raises(BroadcastError, match=f"node 127.0.0.1:{node.port}: .*writing"):
        publisher.publish([("a", bytes(30_000_000))])
    publisher.close()


def test_a_thread_does_not_wait_for_ever_for_another_that_asks_for_the_slots(
    lone_node: RedisCluster,
) -> None:
    publisher = ClusterPublisher(lone_node.location, PREFIX, {"publish_timeout": 0.2})
    with publisher._asking, pytest.raises(BroadcastError, match="not taken within"):
        publisher.publish([("a", b"hi")])
    publisher.close()


async def test_who_waited_for_the_slots_does_not_ask_again(lone_node: RedisCluster) -> None:
    (node,) = lone_node.nodes
    publisher = ClusterPublisher(lone_node.location, PREFIX, {})
    async with Listening(lone_node.location, prefix=PREFIX) as here:
        before = questions(node)
        await asyncio.gather(*(here.backend.publish("a", b"hi") for _ in range(10)))
        assert questions(node) == before + 1

    class AskedMeanwhile:
        """The lock, as it is when the thread that held it has learned the slots."""

        def acquire(self, timeout: float) -> bool:
            publisher._nodes.slots.learn(
                ("127.0.0.1", node.port), [[0, SLOTS - 1, ["127.0.0.1", node.port, ""]]]
            )
            return True

        def release(self) -> None: ...

    publisher._asking = AskedMeanwhile()  # type: ignore[assignment]
    before = questions(node)
    publisher.publish([("a", b"hi")])
    assert questions(node) == before
    publisher.close()


async def test_a_refused_subscription_is_tried_again_and_the_log_says_why(
    lone_node: RedisCluster, caplog: pytest.LogCaptureFixture
) -> None:
    (node,) = lone_node.nodes
    node.ask("ACL", "SETUSER", "default", "-ssubscribe")
    async with Listening(lone_node.location, prefix=PREFIX) as here:
        waiting = asyncio.ensure_future(here.subscribe("a"))
        await eventually(lambda: "no permissions" in caplog.text, "the log")
        assert not waiting.done()
        node.ask("ACL", "SETUSER", "default", "+ssubscribe")
        await waiting


async def test_nodes_that_send_a_topic_in_circles_are_not_overrun() -> None:
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        while data := await reader.read(65536):
            if b"SLOTS" in data:
                writer.write(b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % port)
            elif b"SSUBSCRIBE\r\n$12" in data:  # and not COMMAND INFO
                asked += 1
                writer.write(b"-MOVED %d 127.0.0.1:%d\r\n" % (slot_of(PREFIX, "a"), port))
            else:
                writer.write(b"+OK\r\n" * data.count(b"*"))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port: int = server.sockets[0].getsockname()[1]
        async with Listening([("127.0.0.1", port)], prefix=PREFIX) as here:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.5):
                    await here.backend.subscribe(["a"])
        assert 4 <= asked < 10


async def test_a_node_that_turns_out_to_be_older_gets_plain_pubsub() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if b"SLOTS" in data:
                slots = b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n"
                writer.write(slots % port)
            elif b"\r\n$10\r\nSSUBSCRIBE\r\n$12" in data:
                writer.write(b"-ERR unknown command 'SSUBSCRIBE'\r\n")
            elif b"\r\n$9\r\nSUBSCRIBE\r\n" in data:
                writer.write(b"*3\r\n$9\r\nsubscribe\r\n$12\r\nfaults:db0\xffa\r\n:1\r\n")
            else:
                writer.write(b"+OK\r\n" * data.count(b"*"))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port: int = server.sockets[0].getsockname()[1]
        async with Listening([("127.0.0.1", port)], "a", prefix=PREFIX) as here:
            assert not here.gaps


async def test_a_stream_that_nobody_reads_stops_the_reading_and_loses_nothing(
    lone_node: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SetListener, "MAX_WAITING_BYTES", 100_000)
    monkeypatch.setattr(SetListener, "PING_SECONDS", 0.05)
    monkeypatch.setattr(SetListener, "PONG_SECONDS", 0.05)
    (node,) = lone_node.nodes
    backend = ClusterBackend(lone_node.location, PREFIX, {})
    await backend.connect()
    await backend.subscribe(["a"])
    inbox = backend._listener._inbox
    for n in range(20):
        await backend.publish("a", b"%d" % n + bytes(100_000))
    await eventually(lambda: not inbox.has_room.is_set(), "the stop")
    before = pings(node)
    await eventually(lambda: pings(node) > before + 3, "PINGs, whose answers nobody reads")
    assert inbox.size < 300_000
    received: list[object] = []
    async with asyncio.timeout(20):
        async for each in backend.stream():
            received.append(each)
            if len(received) == 20:
                break
    assert received == [("a", b"%d" % n + bytes(100_000)) for n in range(20)]
    await backend.close()


async def test_answers_that_were_on_their_way_are_told_apart(lone_node: RedisCluster) -> None:
    (node,) = lone_node.nodes
    one, two = "{same slot}1", "{same slot}2"
    with Proxy(node.port) as proxy:
        options = {"address_remap": lambda address: (address[0], proxy.port)}
        async with (
            Listening(lone_node.location, one, two, prefix=PREFIX, options=options) as here,
            Listening(lone_node.location, prefix=PREFIX) as there,
        ):
            proxy.hold()
            await there.backend.publish_many([(one, b"too late"), (two, b"1")])
            await eventually(lambda: proxy.held, "the messages on their way")
            await here.backend.unsubscribe([one])
            first = asyncio.ensure_future(here.backend.subscribe(["new"]))
            await asyncio.sleep(0)
            await here.backend.unsubscribe(["new"])
            with pytest.raises(BroadcastError, match="taken back"):
                await first
            second = asyncio.ensure_future(here.backend.subscribe(["new", one]))
            await asyncio.sleep(0)
            await here.backend.unsubscribe([one])
            proxy.go_on()
            with pytest.raises(BroadcastError, match="taken back"):
                await second
            await here.subscribe("new")
            await there.backend.publish_many([(one, b"no"), (two, b"2"), ("new", b"3")])
            await here.has(messages=3)
            assert here.messages == [(two, b"1"), (two, b"2"), ("new", b"3")]
            assert not here.gaps


async def test_nobody_there_is_told_once_and_tried_with_growing_waits(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Outage, "FIRST_REMINDER", 0.3)
    location = [("127.0.0.1", free_port())]
    async with Listening(location, prefix=PREFIX) as here:
        waiting = asyncio.ensure_future(here.backend.subscribe(["a"]))
        await eventually(lambda: "no connection" in caplog.text, "the log")
        assert isinstance(here.backend, ClusterBackend)
        listener = here.backend._listener
        await eventually(lambda: listener._questions_failed >= 4, "more attempts")
        assert len(caplog.records) <= 2  # the first, and a reminder
        await eventually(lambda: "still" in caplog.text, "the reminder")
        assert not waiting.done()
    with pytest.raises(BroadcastError, match="subscribe failed"):
        await waiting


async def test_what_a_node_says_of_topics_that_it_has_not_is_ignored(
    lone_node: RedisCluster,
) -> None:
    async with Listening(lone_node.location, "a", prefix=PREFIX) as here:
        assert isinstance(here.backend, ClusterBackend)
        listener = here.backend._listener
        (node,) = listener._listeners.values()
        for channel in (b"unknown", channel_of(PREFIX, "a")):
            other = node if channel == b"unknown" else object()
            listener.dropped(other, channel)  # type: ignore[arg-type]
            listener.confirmed(other, channel)  # type: ignore[arg-type]
        await here.backend.publish("a", b"hi")
        await here.has(messages=1)
        assert not here.gaps
