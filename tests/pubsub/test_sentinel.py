"""The Redis backend behind Sentinel: a master dies, is demoted, or is replaced unseen."""

from __future__ import annotations

import asyncio

import pytest

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends import redis_master
from django_ws.pubsub.backends.redis import RedisPublisher
from django_ws.pubsub.backends.redis_listener import SetListener
from tests.pubsub.listening import Listening, eventually
from tests.redis_server import RedisServer, SentinelSet

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
