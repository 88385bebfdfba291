"""The Redis backend behind Sentinel: a master dies, is demoted, or is replaced unseen."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import redis
import redis.asyncio

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends.redis import RedisPublisher
from django_ws.pubsub.backends.redis import master as redis_master
from django_ws.pubsub.backends.redis import sentinels as redis_sentinels
from django_ws.pubsub.backends.redis.listener import Listener, SetListener
from django_ws.pubsub.backends.redis.location import Location
from django_ws.pubsub.backends.redis.master import Master, SyncMaster
from django_ws.pubsub.backends.redis.outage import Outage
from django_ws.pubsub.backends.redis.sentinels import (
    AsyncSentinels,
    Named,
    Setting,
    SyncSentinels,
)
from django_ws.pubsub.backends.redis.unsettled import Unsettled
from tests.support.listening import Listening, eventually
from tests.support.redis_server import RedisServer, SentinelSet

pytestmark = pytest.mark.heavy


def pings(server: RedisServer) -> int:
    return int(server.ask("INFO", "commandstats")["cmdstat_ping"]["calls"])


async def publishes(publisher: RedisPublisher, topic: str, data: bytes) -> bool:
    try:
        await asyncio.to_thread(publisher.publish, [(topic, data)])
    except BroadcastError:
        return False
    return True


@pytest.mark.parametrize("sentinels", [1, 3])
async def test_a_master_is_killed_and_its_replica_promoted(
    sentinels: int, caplog: pytest.LogCaptureFixture
) -> None:
    with SentinelSet(sentinels) as redis_set:
        publisher = RedisPublisher(redis_set.location, "t:", {})
        async with Listening(redis_set.location, "a", "b") as here:
            await here.backend.publish("a", b"before")
            assert await publishes(publisher, "b", b"before")
            await here.has(messages=2)
            old, new = redis_set.servers
            assert redis_set.master_port() == old.port
            assert len(old.clients(pubsub=True)) == 1
            old.kill()
            with pytest.raises(BroadcastError, match=r"broadcast failed at mymaster \(sentinels"):
                await here.backend.publish("a", b"refused")
            await eventually(lambda: redis_set.master_port() == new.port)
            await here.has(gaps=1)
            assert here.gaps == [{"a", "b"}]
            assert len(new.clients(pubsub=True)) == 1
            await here.backend.publish("a", b"after")
            assert await publishes(publisher, "b", b"after, sync")
            await here.has(messages=4)
            assert here.messages[2:] == [("a", b"after"), ("b", b"after, sync")]
            log = [each.message for each in caplog.records if each.name == "django.ws"]
            assert "do not arrive" in log[0]
            assert "arrive again" in log[-1]
            # Sentinels are asked, not kept.
            for sentinel in redis_set.sentinels:
                await eventually(lambda sentinel=sentinel: not sentinel.clients())  # type: ignore[misc]
        publisher.close()


async def test_a_failover_by_hand_moves_everybody_to_the_new_master() -> None:
    with SentinelSet() as redis_set:
        publisher = RedisPublisher(redis_set.location, "t:", {})
        async with Listening(redis_set.location, "a") as here:
            await here.backend.publish("a", b"1")
            assert await publishes(publisher, "a", b"2")
            await asyncio.to_thread(redis_set.failover)
            old, new = redis_set.servers
            await eventually(lambda: old.ask("ROLE")[0] == b"slave")  # both live on
            await here.has(gaps=1)
            assert await publishes(publisher, "a", b"3")
            await here.backend.publish("a", b"4")
            await here.has(messages=4)
            assert here.messages == [("a", b"%d" % n) for n in (1, 2, 3, 4)]
            await eventually(lambda: not old.clients(pubsub=True))
            assert len(new.clients(pubsub=True)) == 1
        publisher.close()


async def test_a_master_that_lives_on_without_its_sentinels_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when it is cut off from them: nothing tells its clients."""
    monkeypatch.setattr(SetListener, "PING_SECONDS", 0.1)
    monkeypatch.setattr(redis_master, "SURE_SECONDS", 0.1)
    with RedisServer() as old, RedisServer() as new:
        sentinel = RedisServer(f"sentinel monitor m 127.0.0.1 {old.port} 1")
        sentinel.mode = ("--sentinel",)
        with sentinel:
            location = {"sentinels": [("127.0.0.1", sentinel.port)], "service_name": "m"}
            publisher = RedisPublisher(location, "t:", {})
            async with Listening(location, "a") as here:
                await here.backend.publish("a", b"1")
                assert await publishes(publisher, "a", b"2")
                await here.has(messages=2)
                sentinel.ask("SENTINEL", "REMOVE", "m")  # no sentinel knows a master: stay
                before = pings(old)
                await eventually(lambda: pings(old) > before + 3)
                assert await publishes(publisher, "a", b"3")
                await here.has(messages=3)
                assert here.gaps == []
                sentinel.ask("SENTINEL", "MONITOR", "m", "127.0.0.1", new.port, 1)
                await here.has(gaps=1)
                assert old.ask("ROLE")[0] == b"master"  # it lives, and says nothing
                assert len(new.clients(pubsub=True)) == 1
                await eventually(lambda: not old.clients(pubsub=True))
                await here.backend.publish("a", b"4")
                assert await publishes(publisher, "a", b"5")
                await here.has(messages=5)
                assert here.messages == [("a", b"%d" % n) for n in (1, 2, 3, 4, 5)]
            publisher.close()


async def test_passwords_of_the_set_and_sentinels_that_are_down(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with SentinelSet(1, "requirepass secret", "masterauth secret") as redis_set:
        location = {
            "service_name": redis_set.name,
            # The first one is not there.
            "sentinels": [("127.0.0.1", 1), *redis_set.location["sentinels"]],
            "password": "secret",
            "sentinel_kwargs": {"password": None, "socket_timeout": 0.5},
        }
        publisher = RedisPublisher(location, "t:", {"db": 2})
        async with Listening(location, "a", options={"db": 2}) as here:
            await here.backend.publish("a", b"1")
            assert await publishes(publisher, "a", b"2")
            await here.has(messages=2)
            assert {c["db"] for c in redis_set.servers[0].clients()} >= {"2"}
            for sentinel in redis_set.sentinels:
                sentinel.kill()
            redis_set.servers[0].kill()
            with pytest.raises(BroadcastError, match="no sentinel knows a master") as caught:
                await here.backend.publish("a", b"3")
            with pytest.raises(BroadcastError, match="no sentinel knows a master"):
                await asyncio.to_thread(publisher.publish, [("a", b"3")])
            assert "secret" not in str(caught.value)
        publisher.close()


# What the sentinels say


def setting(*sentinels: RedisServer, **more: Any) -> Setting:
    addresses = [("127.0.0.1", sentinel.port) for sentinel in sentinels]
    return Setting("m", addresses, {}, 0, None)._replace(**more)


@pytest.fixture(scope="module")
def servers() -> Iterator[list[RedisServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(RedisServer()) for _ in range(2)]


@pytest.fixture(scope="module")
def sentinels(servers: list[RedisServer]) -> Iterator[list[RedisServer]]:
    """Three that know nothing of each other, and may be told anything."""
    with ExitStack() as stack:
        three = [RedisServer() for _ in range(3)]
        for sentinel in three:
            sentinel.mode = ("--sentinel",)
            stack.enter_context(sentinel)
        yield three


def tell(sentinels: list[RedisServer], masters: Sequence[RedisServer | None]) -> None:
    for sentinel, master in zip(sentinels, masters, strict=True):
        with suppress(redis.ResponseError):
            sentinel.ask("SENTINEL", "REMOVE", "m")
        if master is not None:
            sentinel.ask("SENTINEL", "MONITOR", "m", "127.0.0.1", master.port, 2)


async def asked(setting: Setting) -> Named | None:
    """By both."""
    threaded = await asyncio.to_thread(SyncSentinels(setting).ask, time.monotonic() + 20)
    named = await AsyncSentinels(setting).ask()
    if named is not None:
        assert threaded is not None
        assert threaded[:3] == named[:3]
    return named


async def test_most_of_the_sentinels_name_the_master(
    servers: list[RedisServer], sentinels: list[RedisServer]
) -> None:
    old, new = servers
    for masters, named, is_sure in (
        ([old, old, old], old, True),
        ([old, new, new], new, True),
        ([new, old, new], new, True),
        ([new, None, new], new, True),
        ([None, None, new], new, False),
        ([old, None, new], old, False),
    ):
        tell(sentinels, masters)
        found = await asked(setting(*sentinels))
        assert found is not None
        assert found.address == ("127.0.0.1", named.port)
        assert (found.is_sure, found.is_up) == (is_sure, True)
        assert found.since < 20
    tell(sentinels, [None, None, None])
    assert await asked(setting(*sentinels)) is None


async def test_sentinels_that_are_down_are_asked_last(
    servers: list[RedisServer], sentinels: list[RedisServer]
) -> None:
    tell(sentinels, [servers[0]] * 3)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts, and says nothing
        addresses = setting(*sentinels[:2]).sentinels
        nobody = silent.getsockname()[1]
        some = setting(sentinels=[("127.0.0.1", nobody), *addresses])._replace(
            sentinel_kwargs={"socket_timeout": 0.5}
        )
        threaded, own = SyncSentinels(some), AsyncSentinels(some)
        await own.ask()
        await asyncio.to_thread(threaded.ask, time.monotonic() + 20)
        began = time.monotonic()
        for _ in range(40):
            found = await own.ask()
            assert found is not None
            assert found.is_sure
            assert await asyncio.to_thread(threaded.ask, time.monotonic() + 20) is not None
        assert time.monotonic() - began < 20  # of 40 in which it would be waited for each time


async def test_nobody_waits_for_their_answers_all_the_time(
    servers: list[RedisServer], sentinels: list[RedisServer]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        some = setting(sentinels=[("127.0.0.1", silent.getsockname()[1])])._replace(
            sentinel_kwargs={"socket_timeout": 0.3}
        )
        threaded, own = SyncSentinels(some), AsyncSentinels(some)
        began = time.monotonic()
        for _ in range(100):
            assert await own.ask(max_age=3.0) is None
            assert threaded.ask(time.monotonic() + 20, max_age=3.0) is None
        assert time.monotonic() - began < 20  # of 60
        assert threaded.ask(time.monotonic() - 1) is None  # the time is up


async def test_who_is_cancelled_while_it_asks_leaves_no_connection_open(
    servers: list[RedisServer], sentinels: list[RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(sentinels, [servers[0]] * 3)
    own = AsyncSentinels(setting(*sentinels))
    take = redis_sentinels._Ballot.add

    def add(ballot: Any, answer: Any) -> bool:
        asyncio.get_running_loop().call_soon(asking.cancel)
        return take(ballot, answer)

    monkeypatch.setattr(redis_sentinels._Ballot, "add", add)
    asking = asyncio.create_task(own.ask())
    await asyncio.wait([asking])
    for client in own._clients:
        for connection in client.connection_pool._available_connections:
            assert not connection.is_connected


async def test_many_who_ask_at_once_ask_once(
    servers: list[RedisServer], sentinels: list[RedisServer]
) -> None:
    tell(sentinels, [servers[0]] * 3)
    before = connections(sentinels[0])
    own = AsyncSentinels(setting(*sentinels))
    found = await asyncio.gather(*(own.ask(max_age=20.0) for _ in range(20)))
    assert set(found) == {own.last}
    assert connections(sentinels[0]) == before + 2  # one is that of the test
    threaded = SyncSentinels(setting(*sentinels))

    def ask() -> Named | None:
        return threaded.ask(time.monotonic() + 20, max_age=20.0)

    assert set(await asyncio.gather(*(asyncio.to_thread(ask) for _ in range(20)))) == {
        threaded.last
    }
    assert connections(sentinels[0]) == before + 4
    with threaded._lock:  # while another thread waits for their answers
        assert threaded.ask(time.monotonic(), max_age=0.0) is threaded.last


def connections(sentinel: RedisServer) -> int:
    return int(sentinel.ask("INFO", "stats")["total_connections_received"])


async def test_what_redis_py_calls_these_options(
    servers: list[RedisServer], sentinels: list[RedisServer]
) -> None:
    tell(sentinels, [servers[0]] * 3)
    assert await asked(setting(*sentinels, min_other_sentinels=1)) is None  # each is alone
    found = await asked(setting(*sentinels, force_master_ip="127.0.0.9"))
    assert found is not None
    assert found.address == ("127.0.0.9", servers[0].port)
    location = Location(
        {
            "sentinels": [("127.0.0.1", "26379")],
            "service_name": "m",
            "min_other_sentinels": 1,
            "force_master_ip": "127.0.0.9",
            "is_master": True,
            "check_connection": False,
            "ssl": True,
            "db": 3,
        },
        {"sentinel_kwargs": {"password": "theirs"}},
    )
    master = ("10.0.0.1", 7000)
    for pool, kind in (
        (location.pool(master), redis.asyncio.SSLConnection),
        (location.sync_pool(master), redis.SSLConnection),
    ):
        connection = pool.make_connection()
        assert isinstance(connection, kind)
        assert ((connection.host, connection.port), connection.db) == (master, 3)
    assert location.site("t:") == "t:db3"


# Two masters, and what was taken while nobody knew which of them is the right one


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SetListener, "PING_SECONDS", 0.1)
    monkeypatch.setattr(redis_master, "SURE_SECONDS", 0.1)
    monkeypatch.setattr(redis_sentinels, "REST_SECONDS", 0.0)
    monkeypatch.setattr(redis_sentinels, "REST_TIMES", 0)


def location_of(sentinels: list[RedisServer]) -> dict[str, Any]:
    return {"sentinels": setting(*sentinels).sentinels, "service_name": "m"}


async def test_a_listener_stays_while_only_few_name_another(
    servers: list[RedisServer], sentinels: list[RedisServer], soon: None
) -> None:
    old, new = servers
    tell(sentinels, [old] * 3)
    async with Listening(location_of(sentinels), "a") as here:
        tell(sentinels, [old, old, new])
        before = pings(old)
        await eventually(lambda: pings(old) > before + 10)
        assert here.gaps == []
        tell(sentinels, [old, new, new])
        await here.has(gaps=1)
        await eventually(lambda: len(new.clients(pubsub=True)) == 1)


async def test_a_listener_that_finds_a_new_master_tells_a_second_gap(
    servers: list[RedisServer],
    sentinels: list[RedisServer],
    soon: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Listener, "DOUBT_SECONDS", 0.5)
    old, new = servers
    tell(sentinels, [old] * 3)
    async with Listening(location_of(sentinels), "a", "b") as here:
        await here.has(gaps=1)  # it is new to the sentinels: others may be elsewhere
        assert here.gaps == [{"a", "b"}]
        tell(sentinels, [new] * 3)
        await here.has(gaps=3)
        assert here.gaps == [{"a", "b"}] * 3


async def test_a_listener_of_a_doubtful_master_tells_a_gap_when_it_is_sure(
    servers: list[RedisServer], sentinels: list[RedisServer], soon: None
) -> None:
    old, _ = servers
    tell(sentinels, [old, None, None])
    async with Listening(location_of(sentinels), "a") as here:
        await here.backend.publish("a", b"1")
        await here.has(messages=1)
        before = pings(old)
        await eventually(lambda: pings(old) > before + 3)
        assert here.gaps == []
        tell(sentinels, [old, old, None])
        await here.has(gaps=1)
        assert here.gaps == [{"a"}]


@pytest.mark.parametrize("is_sync", [True, False])
async def test_what_was_taken_by_a_doubtful_master_is_told_as_a_gap(
    servers: list[RedisServer], sentinels: list[RedisServer], soon: None, is_sync: bool
) -> None:
    old, new = servers
    tell(sentinels, [old] * 3)
    publisher = RedisPublisher(location_of(sentinels), "t:", {})
    async with Listening(location_of(sentinels), "own") as there:

        async def publish(topic: str, data: bytes) -> None:
            if is_sync:
                await asyncio.to_thread(publisher.publish, [(topic, data)])
            else:
                await there.backend.publish(topic, data)

        await publish("a", b"1")
        tell(sentinels, [None] * 3)
        before = pings(old)
        await eventually(lambda: pings(old) > before + 3)
        await publish("a", b"2")  # nobody says that this is wrong
        await publish("b", b"3")
        async with Listening(new.url, "a", "b", "c") as here:  # it has no gap of its own
            tell(sentinels, [new] * 3)
            if is_sync:
                await publish("c", b"4")
                await here.has(messages=1)
            await eventually(lambda: set().union(*here.gaps) == {"a", "b"})
            await publish("c", b"5")  # once is enough
            await here.has(messages=1 + is_sync)
            assert len(here.gaps) == 2
    publisher.close()


@pytest.mark.parametrize("is_sync", [True, False])
async def test_what_a_doubtful_master_has_taken_is_forgotten_when_it_was_the_right_one(
    servers: list[RedisServer], sentinels: list[RedisServer], soon: None, is_sync: bool
) -> None:
    old, _ = servers
    tell(sentinels, [old] * 3)
    publisher = RedisPublisher(location_of(sentinels), "t:", {})
    async with Listening(location_of(sentinels), "own") as there, Listening(old.url, "a") as here:

        async def publish(data: bytes) -> None:
            if is_sync:
                await asyncio.to_thread(publisher.publish, [("a", data)])
            else:
                await there.backend.publish("a", data)

        await publish(b"1")
        tell(sentinels, [None] * 3)
        before = pings(old)
        await eventually(lambda: pings(old) > before + 3)
        await publish(b"2")
        tell(sentinels, [old] * 3)
        before = pings(old)
        await eventually(lambda: pings(old) > before + 3)
        await publish(b"3")
        await here.has(messages=3)
        assert here.gaps == []
    publisher.close()


@pytest.mark.parametrize("is_sync", [True, False])
async def test_too_much_in_doubt_is_refused(
    servers: list[RedisServer],
    sentinels: list[RedisServer],
    soon: None,
    is_sync: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Unsettled, "MAX_TOPICS", 2)
    old, _ = servers
    tell(sentinels, [old] * 3)
    publisher = RedisPublisher(location_of(sentinels), "t:", {})
    async with Listening(location_of(sentinels), "own") as there:

        async def publish(topic: str) -> None:
            if is_sync:
                await asyncio.to_thread(publisher.publish, [(topic, b"")])
            else:
                await there.backend.publish(topic, b"")

        await publish("a")
        tell(sentinels, [None] * 3)
        before = pings(old)
        await eventually(lambda: pings(old) > before + 3)
        for topic in "aabb":
            await publish(topic)
        with pytest.raises(BroadcastError, match="most of the sentinels do not answer"):
            await publish("c")
        with pytest.raises(BroadcastError):  # the connection is not kept: no sentinel names one
            await publish("a")
        tell(sentinels, [old] * 3)
        await publish("c")
    publisher.close()


@pytest.mark.parametrize("is_sync", [True, False])
async def test_a_publisher_goes_to_the_new_master_with_its_next_broadcast(
    servers: list[RedisServer],
    sentinels: list[RedisServer],
    is_sync: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before the listener beside it has looked."""
    monkeypatch.setattr(redis_master, "SURE_SECONDS", 0.1)
    monkeypatch.setattr(SetListener, "PING_SECONDS", 600.0)
    old, new = servers
    tell(sentinels, [old] * 3)
    publisher = RedisPublisher(location_of(sentinels), "t:", {})
    async with Listening(location_of(sentinels), "own") as there, Listening(new.url, "a") as here:

        async def publish(data: bytes) -> None:
            if is_sync:
                await asyncio.to_thread(publisher.publish, [("a", data)])
            else:
                await there.backend.publish("a", data)

        await publish(b"to the old one")
        tell(sentinels, [new] * 3)
        await asyncio.sleep(0.2)  # the sentinels are not asked again sooner
        await publish(b"to the new one")
        await here.has(messages=1)
        assert here.messages == [("a", b"to the new one")]
    publisher.close()


@pytest.mark.parametrize("is_sync", [True, False])
async def test_what_was_taken_while_another_became_the_master_is_an_error(
    servers: list[RedisServer],
    sentinels: list[RedisServer],
    is_sync: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between the question and the answers, as while the process stood still."""
    old, new = servers
    tell(sentinels, [old] * 3)
    publisher = RedisPublisher(location_of(sentinels), "t:", {})
    master = SyncMaster if is_sync else Master
    async with Listening(location_of(sentinels), "own") as there:
        publish: Callable[[], Awaitable[None]] = lambda: (  # noqa: E731
            asyncio.to_thread(publisher.publish, [("a", b"")])
            if is_sync
            else there.backend.publish("a", b"")
        )
        await publish()
        real = master.missed

        def change(*args: Any) -> Any:
            tell(sentinels, [new] * 3)
            monkeypatch.setattr(redis_master, "SURE_SECONDS", 0.0)
            return real(*args)

        monkeypatch.setattr(master, "missed", change)
        with pytest.raises(BroadcastError, match="the sentinels name another master by now"):
            await publish()
    publisher.close()


async def test_a_gap_that_may_not_be_told_holds_up_nothing(
    servers: list[RedisServer], sentinels: list[RedisServer], soon: None
) -> None:
    old, new = servers
    tell(sentinels, [old] * 3)
    publisher = RedisPublisher(location_of(sentinels), "t:", {})
    publisher.publish([("a", b"1")])
    tell(sentinels, [None] * 3)
    await asyncio.sleep(0.2)
    publisher.publish([("a", b"2")])
    tell(sentinels, [new] * 3)
    new.ask("ACL", "SETUSER", "default", "resetchannels", "&t:*b")
    try:
        await asyncio.sleep(0.2)
        publisher.publish([("b", b"3")])
    finally:
        new.ask("ACL", "SETUSER", "default", "allchannels")
    publisher.close()


async def test_a_frozen_master_is_given_up_in_a_few_seconds(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Outage, "FIRST_REMINDER", 1.0)
    with RedisServer() as master:
        sentinel = RedisServer(f"sentinel monitor m 127.0.0.1 {master.port} 1")
        sentinel.mode = ("--sentinel",)
        with sentinel:
            async with Listening(location_of([sentinel]), "a") as here:
                await eventually(lambda: pings(master) > 1)
                master.freeze()
                began = time.monotonic()
                await eventually(lambda: "no answer to a PING in 2.5 s" in caplog.text)
                assert time.monotonic() - began < 10
                await eventually(lambda: "do not arrive for" in caplog.text)
                master.thaw()
                await here.has(gaps=1)
                await eventually(lambda: "Broadcasts arrive again" in caplog.text)
