"""The Redis backend on one server that is well: addresses, subscriptions, publishing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from django_ws.exceptions import BroadcastError
from django_ws.pubsub import Publisher
from django_ws.pubsub.backends.redis import RedisBackend, RedisPublisher, wire
from django_ws.pubsub.backends.redis.connection import abort, connect
from django_ws.pubsub.backends.redis.listener import Listener
from django_ws.pubsub.backends.redis.location import Location
from django_ws.pubsub.backends.redis.wire import send
from tests.support.listening import Listening, channel_of, eventually
from tests.support.redis_server import RedisServer, until


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def prefix(server: RedisServer) -> str:
    server.ask("CONFIG RESETSTAT")
    return f"{uuid4().hex}:"


def calls(server: RedisServer, command: str) -> int:
    """How often a command was executed since the test began."""
    return int(server.ask("INFO", "commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])


def subscribers(server: RedisServer, channel: bytes) -> int:
    return int(server.ask("PUBSUB NUMSUB", channel)[0][1])


# Topics and messages


async def test_a_message_arrives_with_its_topic_and_unchanged_bytes(
    server: RedisServer, prefix: str
) -> None:
    topics = ["room:42", "r\u00e4ume/\U0001f600 *?[a]", "\0control", "x" * 512]
    async with Listening(server.url, *topics, prefix=prefix) as here:
        sent = [(topic, bytes(range(256)) + topic.encode()) for topic in topics]
        await here.backend.publish_many(sent)
        await here.has(messages=len(sent))
        assert here.messages == sent


async def test_the_prefix_keeps_sites_apart(server: RedisServer, prefix: str) -> None:
    async with (
        Listening(server.url, "room", prefix=prefix + "a:") as here,
        Listening(server.url, "room", "a:room", prefix=prefix) as there,
    ):
        await here.backend.publish("room", b"for a")
        await there.backend.publish("room", b"for the other")
        await here.has(messages=1)
        await there.has(messages=1)
        assert here.messages == [("room", b"for a")]
        assert there.messages == [("room", b"for the other")]


async def test_sites_in_other_databases_are_other_sites(server: RedisServer, prefix: str) -> None:
    """Redis' pub/sub itself knows no databases."""
    locations = [
        (server.url, {}),
        (server.url.removesuffix("/0") + "/1", {}),
        (server.url.removesuffix("/0"), {"db": 2}),
        (f"{server.unix_url}?db=11", {}),
    ]
    async with AsyncExitStack() as stack:
        sites = [
            await stack.enter_async_context(
                Listening(location, "room", prefix=site, options=options)
            )
            for location, options in locations
            for site in (prefix, f"{prefix}1", f"{prefix}db1")
        ]
        for number, site in enumerate(sites):
            await site.backend.publish("room", b"async %d" % number)
        numbers = iter(range(len(sites)))
        for location, options in locations:
            for site_prefix in (prefix, f"{prefix}1", f"{prefix}db1"):
                with Publisher(location, prefix=site_prefix, options=options) as publisher:
                    publisher.broadcast("room", b"sync %d" % next(numbers))
        for number, site in enumerate(sites):
            await site.has(messages=2)
            (_, own), (_, published) = site.messages
            assert own == b"async %d" % number
            assert published.endswith(b"sync %d" % number)


async def test_messages_to_topics_that_nobody_asked_for_do_not_arrive(
    server: RedisServer, prefix: str
) -> None:
    async with Listening(server.url, "a", prefix=prefix) as here:
        await here.backend.publish_many([("b", b"1"), ("a", b"2")])
        await here.has(messages=1)
        assert here.messages == [("a", b"2")]


async def test_nothing_to_publish_is_nothing(server: RedisServer, prefix: str) -> None:
    async with Listening(server.url, prefix=prefix) as here:
        await here.backend.publish_many([])
        RedisPublisher(server.url, prefix, {}).publish([])
        assert calls(server, "publish") == 0


async def test_a_new_master_is_no_gap_for_who_has_subscribed_to_nothing(
    server: RedisServer, prefix: str
) -> None:
    async with Listening(server.url, prefix=prefix) as here:
        here.listener._tell_gap()
        await here.backend.subscribe(["a"])
        here.listener._tell_gap()
        await eventually(lambda: here.received)
        assert here.gaps == [frozenset({"a"})]


async def test_megabytes_pass_in_order(server: RedisServer, prefix: str) -> None:
    sent = [("big", bytes([n]) * 1_000_000 + b"%d" % n) for n in range(20)]
    async with Listening(server.url, "big", prefix=prefix) as here:
        for n in range(0, 20, 5):
            await here.backend.publish_many(sent[n : n + 5])
        await here.has(messages=20)
        assert here.messages == sent


async def test_ten_thousand_topics_over_two_connections(server: RedisServer, prefix: str) -> None:
    topics = [f"topic {n}" for n in range(10_000)]
    async with Listening(server.url, *topics, prefix=prefix, options={"client_name": "T"}) as here:
        for n in range(0, 10_000, 1000):
            await here.backend.publish_many([(topic, b"x") for topic in topics[n : n + 1000]])
        await here.has(messages=10_000)
        assert [topic for topic, _ in here.messages] == topics
        assert len([c for c in server.clients() if c["name"] == "T"]) == 2
        assert calls(server, "subscribe") == 10_000 / Listener.NAMES
        await here.backend.unsubscribe(topics)
        await eventually(lambda: int(server.clients(pubsub=True) == []))


async def test_who_reads_the_stream_slowly_stops_the_reading_and_loses_nothing(
    server: RedisServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Listener, "MAX_WAITING_BYTES", 100_000)
    monkeypatch.setattr(Listener, "PING_SECONDS", 0.05)
    monkeypatch.setattr(Listener, "PONG_SECONDS", 0.1)
    backend = RedisBackend(server.url, prefix, {})
    await backend.connect()
    await backend.subscribe(["a"])
    data = b"x" * 10_000
    for n in range(500):
        await backend.publish("a", b"%d:" % n + data)
    listener = backend._listener
    await eventually(lambda: not listener._has_room.is_set())
    pings = calls(server, "ping")
    await eventually(lambda: calls(server, "ping") > pings + 3)  # it is not taken for dead
    assert sum(len(each[1]) for each in listener._waiting if isinstance(each, tuple)) < 500_000
    stream = backend.stream()
    received = [await anext(stream) for _ in range(500)]
    assert received == [("a", b"%d:" % n + data) for n in range(500)]
    await backend.close()
    assert [each async for each in stream] == []


async def test_without_hiredis(
    server: RedisServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "hiredis", None)
    async with Listening(server.url, "a", "b", prefix=prefix) as here:
        await here.backend.publish_many([("a", b"1"), ("b", b"2"), ("a", b"3")])
        await here.has(messages=3)
        assert here.messages == [("a", b"1"), ("b", b"2"), ("a", b"3")]
        server.ask("CLIENT KILL TYPE pubsub")
        await here.has(gaps=1)
        assert here.gaps == [{"a", "b"}]


# Subscriptions


async def test_subscribing_at_once_from_many_tasks_is_one_command(
    server: RedisServer, prefix: str
) -> None:
    async with Listening(server.url, prefix=prefix) as here:
        await asyncio.gather(*(here.subscribe("room", f"own {n}") for n in range(1000)))
        assert calls(server, "subscribe") == 3  # 1001 names
        await here.subscribe("room", "own 7")
        assert calls(server, "subscribe") == 3
        await here.backend.publish("room", b"x")
        await here.has(messages=1)


async def test_given_back_and_asked_for_again_is_confirmed_anew(
    server: RedisServer, prefix: str
) -> None:
    async with Listening(server.url, "a", prefix=prefix) as here:
        listener = here.listener
        await here.backend.unsubscribe(["a"])
        await eventually(lambda: not subscribers(server, channel_of(prefix, "a")))
        server.freeze()  # nothing is confirmed now, whatever was before
        try:
            first = asyncio.create_task(here.subscribe("a"))
            await eventually(lambda: here.listener._unanswered)
            await here.backend.unsubscribe(["a"])
            with pytest.raises(BroadcastError, match="taken back"):
                await first
            second = asyncio.create_task(here.subscribe("a"))
            await eventually(lambda: listener._waiters)
            assert not listener.is_confirmed("a")
            assert not second.done()
        finally:
            server.thaw()
        await second
        assert not listener._unanswered
        assert here.gaps == []
        assert subscribers(server, channel_of(prefix, "a")) == 1


async def test_given_back_and_asked_for_again_at_once_stays_subscribed(
    server: RedisServer, prefix: str
) -> None:
    async with Listening(server.url, "a", prefix=prefix) as here:
        await here.backend.unsubscribe(["a"])
        await here.subscribe("a")
        await here.backend.publish("a", b"x")
        await here.has(messages=1)
        assert calls(server, "unsubscribe") == 0


async def test_what_is_given_back_arrives_no_more(server: RedisServer, prefix: str) -> None:
    async with Listening(server.url, "a", "b", prefix=prefix) as here:
        await here.backend.unsubscribe(["a", "unknown"])
        await here.backend.publish_many([("a", b"1"), ("b", b"2")])
        await here.has(messages=1)
        assert here.messages == [("b", b"2")]


async def test_what_was_under_way_when_its_topic_was_given_back_is_dropped(
    server: RedisServer, prefix: str
) -> None:
    async with Listening(server.url, "a", "b", prefix=prefix) as here:
        assert (
            server.ask("PUBLISH", channel_of(prefix, "a"), "1") == 1
        )  # it waits in the socket now
        await here.backend.unsubscribe(["a"])
        await here.backend.publish("b", b"2")
        await here.has(messages=1)
        assert here.messages == [("b", b"2")]


async def test_a_subscription_taken_back_at_any_moment_leaves_none(
    server: RedisServer, prefix: str
) -> None:
    async with Listening(server.url, "a", prefix=prefix) as here:
        unsent = asyncio.create_task(here.subscribe("unsent"))
        await asyncio.sleep(0)  # it has asked, and nothing else has run
        assert here.listener._waiters
        await here.backend.unsubscribe(["unsent"])
        server.freeze()
        unanswered = asyncio.create_task(here.subscribe("unanswered"))
        await eventually(lambda: here.listener._unanswered)
        await here.backend.unsubscribe(["unanswered"])
        server.thaw()
        for task in (unsent, unanswered):
            with pytest.raises(BroadcastError, match="taken back"):
                await task
        await eventually(lambda: not here.listener._unanswered)
        for name in ("unsent", "unanswered"):
            await eventually(lambda name=name: not subscribers(server, channel_of(prefix, name)))  # type: ignore[misc]
        assert calls(server, "subscribe") == 2
        assert here.listener._names == {channel_of(prefix, "a"): "a"}
        confirmed = set(filter(here.listener._holds, here.listener._names))
        assert confirmed == {channel_of(prefix, "a")}


async def test_nothing_is_sent_over_a_closed_connection(server: RedisServer) -> None:
    """redis-py would open a new one, and the gap would go unnoticed."""
    connection = await connect(Location(server.url, {}).pool())
    await send(connection, "PING")
    await abort(connection)
    with pytest.raises(redis.ConnectionError, match="closed"):
        await send(connection, "PING")
    assert not connection.is_connected


async def test_one_who_stops_waiting_does_not_stop_the_others(
    server: RedisServer, prefix: str
) -> None:
    async with Listening(server.url, prefix=prefix) as here:
        server.freeze()
        try:
            impatient = asyncio.create_task(here.subscribe("a"))
            patient = asyncio.create_task(here.subscribe("a", "b"))
            await eventually(lambda: here.listener._waiters)
            impatient.cancel()
            await asyncio.wait([impatient])
            assert impatient.cancelled()
            assert not patient.done()
        finally:
            server.thaw()
        await patient


async def test_closing_ends_those_who_wait_for_a_subscription(prefix: str) -> None:
    async with Listening("redis://127.0.0.1:1/0", prefix=prefix) as here:
        waiting = asyncio.create_task(here.subscribe("a"))
        await eventually(lambda: here.listener._waiters)
    with pytest.raises(BroadcastError, match=r"subscribe failed at redis://127.0.0.1:1/0"):
        await waiting


# Addresses


async def test_a_unix_socket(server: RedisServer, prefix: str) -> None:
    async with Listening(server.unix_url, "a", prefix=prefix) as here:
        publisher = RedisPublisher(server.unix_url, prefix, {})
        await asyncio.to_thread(publisher.publish, [("a", b"1")])
        publisher.close()
        await here.has(messages=1)
        assert here.backend.server == server.unix_url


async def test_user_password_and_database_of_the_url(prefix: str) -> None:
    config = ("requirepass other", "user alice on >s%cret allchannels +@all allkeys")
    with RedisServer(*config) as server:
        url = f"redis://alice:s%25cret@127.0.0.1:{server.port}/3"
        async with Listening(url, "a", prefix=prefix) as here:
            publisher = RedisPublisher(url, prefix, {})
            await asyncio.to_thread(publisher.publish, [("a", b"1")])
            await here.backend.publish("a", b"2")
            await here.has(messages=2)
            assert {c["user"] for c in server.clients()} == {"alice"}
            assert {c["db"] for c in server.clients()} == {"3"}
            assert here.backend.server == f"redis://127.0.0.1:{server.port}/3"
            publisher.close()
        wrong = RedisPublisher(f"redis://alice:wrong@127.0.0.1:{server.port}/3", prefix, {})
        with pytest.raises(BroadcastError, match=r"invalid username-password") as caught:
            wrong.publish([("a", b"1")])
        assert "wrong@" not in str(caught.value)
        assert str(caught.value).startswith(
            f"broadcast failed at redis://127.0.0.1:{server.port}/3: "
        )


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout key.pem -out cert.pem "
        "-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    )
    subprocess.run(command.split(), cwd=directory, check=True, capture_output=True)
    return directory / "cert.pem"


async def test_tls(certificate: Path, prefix: str) -> None:
    with RedisServer() as plain:  # for a port
        port = plain.port
    config = (
        f"tls-port {port}",
        f"tls-cert-file {certificate}",
        f"tls-key-file {certificate.with_name('key.pem')}",
        "tls-auth-clients no",
    )
    with RedisServer(*config) as server:
        url, options = f"rediss://127.0.0.1:{port}/0", {"ssl_ca_certs": str(certificate)}
        async with Listening(url, "a", prefix=prefix, options=options) as here:
            publisher = RedisPublisher(url, prefix, options)
            await asyncio.to_thread(publisher.publish, [("a", b"1" * 100_000)])
            await here.backend.publish("a", b"2" * 100_000)
            await here.has(messages=2)
            server.ask("CLIENT KILL TYPE pubsub")
            await here.has(gaps=1)
            await here.backend.publish("a", b"3")
            await here.has(messages=3)
            publisher.close()
        untrusting = RedisPublisher(url, prefix, {})
        with pytest.raises(BroadcastError, match="certificate verify failed"):
            untrusting.publish([("a", b"1")])


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:6379/0",
        "redis://:secret@:6379/0",
        "redis://alice:secret@127.0.0.1:port/0",
        "redis://alice:secret@127.0.0.1/zero",
        "redis://alice:12/secret@127.0.0.1/0",
        "redis://alice:sec/ret@127.0.0.1/0",
        "redis://alice:12?secret@127.0.0.1/0",
        "redis://alice:12#secret@127.0.0.1/0",
        "redis://:12secret#@127.0.0.1/0",
        "redis://alice:[secret@127.0.0.1/0",
        "unix://alice:se/secret@/run/redis.sock",
        "secret@127.0.0.1",
        "redis://127.0.0.1/?socket_timeout=soon",
        "unix://",
        "127.0.0.1:6379",
        6379,
        None,
        {},
        {"sentinels": [("127.0.0.1", 26379)]},
        {"sentinels": ["127.0.0.1"], "service_name": "mymaster"},
        {"sentinels": 5, "service_name": "mymaster"},
    ],
)
def test_a_location_that_is_none_is_refused_at_once(location: Any) -> None:
    for made in (RedisBackend, RedisPublisher):
        with pytest.raises(ValueError, match="LOCATION") as caught:
            made.for_location(location, "p:", {})
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("redis://localhost", "redis://localhost:6379/0"),
        ("redis://u:p@[::1]:7000/2?client_name=x", "redis://[::1]:7000/2"),
        ("unix://u:p@/run/redis.sock?db=1", "unix:///run/redis.sock"),
        (
            {"sentinels": [("a", 1), ["b", 2]], "service_name": "m", "password": "p"},
            "m (sentinels a:1, b:2)",
        ),
    ],
)
def test_the_name_of_the_server_shows_no_password(location: Any, name: str) -> None:
    assert RedisBackend(location, "p:", {}).server == name


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"colour": "red"}, "'colour'"),
        ({"max_connections": 0}, "max_connections is 0"),
        ({"max_connections": "7"}, "max_connections is '7'"),
    ],
)
@pytest.mark.parametrize("location", ["redis://localhost", ["redis://localhost"]])
def test_wrong_options_are_refused_at_once(location: Any, options: Any, says: str) -> None:
    for made in (RedisBackend, RedisPublisher):
        with pytest.raises(ValueError, match=f"OPTIONS.*{says}"):
            made.for_location(location, "p:", options)


async def test_options_reach_redis_py_and_cannot_break_the_listening(
    server: RedisServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Listener, "PING_SECONDS", 0.1)
    options = {
        "client_name": "mysite",
        "protocol": 3,
        "health_check_interval": 1,
        "decode_responses": True,
        "socket_timeout": 0.05,
        "max_connections": 1,
    }
    async with Listening(f"{server.url}?protocol=3", "a", prefix=prefix, options=options) as here:
        # Between two PINGs it is silent for longer than the socket_timeout, which is for answers.
        pings = calls(server, "ping")
        await eventually(lambda: calls(server, "ping") >= pings + 2)
        publisher = RedisPublisher(f"{server.url}?protocol=3", prefix, options)
        await asyncio.to_thread(publisher.publish, [("a", b"1")])
        await here.backend.publish("a", b"2")
        await here.has(messages=2)
        assert len([c for c in server.clients() if c["name"] == "mysite"]) == 3
        assert here.gaps == []
        publisher.close()


# Publishing from sync code


@pytest.fixture
def publisher(server: RedisServer, prefix: str) -> Iterator[RedisPublisher]:
    publisher = RedisPublisher(server.url, prefix, {"client_name": prefix})
    yield publisher
    publisher.close()


def connections(server: RedisServer, prefix: str) -> int:
    return len([c for c in server.clients() if c["name"] == prefix])


async def test_many_threads_share_few_connections_and_each_keeps_its_order(
    server: RedisServer, prefix: str, publisher: RedisPublisher
) -> None:
    def publish(thread: int) -> None:
        for n in range(0, 200, 2):
            publisher.publish([(f"{thread}", b"%d" % n), (f"{thread}", b"%d" % (n + 1))])

    async with Listening(server.url, *map(str, range(8)), prefix=prefix) as here:
        await asyncio.gather(*(asyncio.to_thread(publish, n) for n in range(8)))
        await here.has(messages=1600)
        for thread in map(str, range(8)):
            got = [int(data) for topic, data in here.messages if topic == thread]
            assert got == list(range(200))
    assert 1 <= connections(server, prefix) <= 2


async def test_closing_leaves_nothing_open_and_publishing_opens_again(
    server: RedisServer, prefix: str, publisher: RedisPublisher
) -> None:
    publisher.publish([("a", b"1")])
    assert connections(server, prefix) == 1
    publisher.close()
    await eventually(lambda: not connections(server, prefix))
    publisher.publish([("a", b"2")])
    assert connections(server, prefix) == 1


def test_closing_closes_what_is_in_use_as_soon_as_it_is_given_back(
    server: RedisServer, prefix: str, publisher: RedisPublisher
) -> None:
    publisher.publish([("a", b"1")])
    server.freeze()
    try:
        threads = [
            threading.Thread(target=publisher.publish, args=([("a", b"2")],)) for _ in range(4)
        ]
        for thread in threads:  # two of them wait for a connection
            thread.start()
        until(lambda: not publisher._this_process().free.qsize(), "publishing")
        publisher.close()
    finally:
        server.thaw()
    for thread in threads:
        thread.join(10)
    until(lambda: not connections(server, prefix), "the end of the connections")
    assert calls(server, "publish") == 5


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_after_a_fork_parent_and_child_publish_over_connections_of_their_own(
    server: RedisServer, prefix: str, publisher: RedisPublisher
) -> None:
    async with Listening(server.url, "a", prefix=prefix) as here:
        publisher.publish([("a", b"before")])
        (before,) = [c["id"] for c in server.clients() if c["name"] == prefix]
        child = os.fork()
        if not child:  # pragma: no cover - coverage does not see what ends by _exit
            code = 1
            try:
                publisher.publish([("a", b"child")])
                code = int(connections(server, prefix) != 2)
                publisher.close()
            finally:
                os._exit(code)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        publisher.publish([("a", b"parent")])
        await here.has(messages=3)
        assert [data for _, data in here.messages] == [b"before", b"child", b"parent"]
        (after,) = [c["id"] for c in server.clients() if c["name"] == prefix]
        assert before == after  # the child's closing did not end the parent's


def test_publishing_needs_no_event_loop_and_works_between_loops(
    server: RedisServer, prefix: str, publisher: RedisPublisher
) -> None:
    async def there_and_back(n: int) -> None:
        async with Listening(server.url, "a", prefix=prefix) as here:
            await asyncio.to_thread(publisher.publish, [("a", b"%d" % n)])
            await here.backend.publish("a", b"async")
            await here.has(messages=2)
            assert here.messages == [("a", b"%d" % n), ("a", b"async")]

    for n in range(3):
        publisher.publish([("a", b"nobody hears it")])
        asyncio.run(there_and_back(n))
    until(lambda: len(server.clients()) == 1, "the end of the loops' connections")


def test_without_sentinels_the_server_stays_the_right_one(
    server: RedisServer, prefix: str, publisher: RedisPublisher
) -> None:
    publisher.publish([("a", b"1")])
    (before,) = [c["id"] for c in server.clients() if c["name"] == prefix]
    publisher.publish([("a", b"2")])
    assert [c["id"] for c in server.clients() if c["name"] == prefix] == [before]


def test_when_the_time_is_up_nothing_more_is_sent(
    server: RedisServer, prefix: str, publisher: RedisPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher._location, "publish_seconds", 0)
    with pytest.raises(BroadcastError, match="no answer in 0 s"):
        publisher.publish([("a", b"1")])
    until(lambda: not connections(server, prefix), "the end of the connection")
    assert calls(server, "publish") == 0


def test_all_connections_busy_is_an_error_in_time(server: RedisServer, prefix: str) -> None:
    options = {"max_connections": 1, "publish_timeout": 0.5}
    publisher = RedisPublisher(server.url, prefix, options)
    publisher.publish([("a", b"1")])
    slots = publisher._this_process()
    slot = slots.free.get_nowait()  # as another thread would hold it
    with pytest.raises(BroadcastError, match=r"all 1 connections were busy for 0.5 s"):
        publisher.publish([("a", b"2")])
    slots.give_back(slot)
    publisher.publish([("a", b"3")])
    publisher.close()


@pytest.mark.parametrize("kind", [RedisBackend, RedisPublisher])
def test_a_list_of_nodes_is_not_one_server(kind: Any) -> None:
    with pytest.raises(ValueError, match="LOCATION of list: give redis://HOST"):
        kind(["redis://127.0.0.1:1"], "p:", {})


@pytest.mark.parametrize("kind", [RedisBackend, RedisPublisher])
def test_a_subclass_is_not_left_out_for_a_list_of_nodes(kind: Any) -> None:
    """As a cluster it would be another class, without what the subclass adds."""
    own: Any = type("Own", (kind,), {})
    with pytest.raises(ValueError, match="LOCATION of list: give redis://HOST"):
        own.for_location(["redis://127.0.0.1:1"], "p:", {})
