"""Two masters at once: whatever was reported as taken is received, or a gap is told afterwards.

Publishers and listeners of all kinds are there before, and more of them come meanwhile. The times
are shortened in all but the tests marked ``faults``.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable

import pytest
from redis.crc import key_slot

from django_ws.pubsub.backends.redis import master
from django_ws.pubsub.backends.redis.listener import Listener
from django_ws.pubsub.backends.redis_cluster import contact
from tests.support.ledger import Ledger
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer, SentinelSet, until

pytestmark = pytest.mark.heavy


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(master, "SURE_SECONDS", 1.0)
    monkeypatch.setattr(Listener, "DOUBT_SECONDS", 2.5)
    monkeypatch.setattr(contact, "MARGIN_SECONDS", 1.0)


async def eventually(condition: Callable[[], object], what: str) -> None:
    async with asyncio.timeout(40):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def is_master(server: RedisServer) -> bool:
    return bool(server.ask("ROLE")[0] == b"master")


class Split(ABC):
    """The old master stays a master, and is cut off from whoever names the masters; the other one
    is put in its place.
    """

    def __init__(self, old: RedisServer, new: RedisServer, ledger: Ledger) -> None:
        self.old, self.new, self.ledger = old, new, ledger

    @abstractmethod
    def cut(self) -> None: ...

    @abstractmethod
    def has_moved(self) -> bool: ...


class SentinelSplit(Split):
    def __init__(self, redis_set: SentinelSet) -> None:
        old, new = redis_set.servers
        super().__init__(old, new, Ledger(redis_set.location, ["a", "b"]))
        self.redis_set = redis_set

    def cut(self) -> None:
        self.redis_set.cut_off(self.old)

    def has_moved(self) -> bool:
        return self.redis_set.master_port() == self.new.port


class ClusterSplit(Split):
    def __init__(self, cluster: RedisCluster) -> None:
        old = cluster.nodes[0]
        slots = cluster.slots_of(old)
        tag = next(tag for tag in map(str, range(1000)) if key_slot(tag.encode()) in slots)
        topics = [f"{{{tag}}} a", f"{{{tag}}} b"]
        # The others are asked first: the one that is cut off has no news.
        super().__init__(old, cluster.nodes[3], Ledger(cluster.location[::-1], topics))
        self.cluster = cluster

    def cut(self) -> None:
        self.cluster.isolate(self.old)

    def has_moved(self) -> bool:
        return is_master(self.new)


@pytest.fixture(params=["sentinels", "cluster"])
async def split(request: pytest.FixtureRequest) -> AsyncIterator[Split]:
    """A set of servers, with publishers and listeners that have been there for a while."""
    if request.param == "sentinels":
        with SentinelSet(3) as redis_set:
            # As long as by default: until then nobody tells the old one that it is none.
            for sentinel in redis_set.sentinels:
                sentinel.ask("SENTINEL DEBUG", "publish-period", 2000)
            split: Split = SentinelSplit(redis_set)
            yield split
            await split.ledger.close()
    else:
        with RedisCluster(has_replica=True, has_proxies=True) as cluster:
            split = ClusterSplit(cluster)
            yield split
            await split.ledger.close()


async def divide(split: Split, *, frozen: float | None = None) -> None:
    """``frozen``: for how many seconds after its successor has come."""
    ledger = split.ledger
    before = [await ledger.add_listener() for _ in range(2)]
    idle = ledger.publisher()
    await ledger.publish(idle, ledger.topics[0])
    for _ in range(2):
        ledger.keep_publishing(ledger.publisher())
    ledger.keep_publishing(await ledger.backend())
    ledger.keep_publishing(ledger.once, every=0.1)
    await eventually(lambda: ledger.received_by_all(50), "messages that all receive")
    if frozen is None:
        split.cut()
    else:
        split.old.freeze()
        if isinstance(split, ClusterSplit):
            split.cut()
    await asyncio.to_thread(until, split.has_moved, "a new master", 40)
    meanwhile = [await ledger.add_listener()]
    if frozen is not None:
        await asyncio.sleep(frozen)
        split.old.thaw()
    assert is_master(split.old)
    await ledger.publish(idle, ledger.topics[0])  # over the connection of before
    meanwhile.append(await ledger.add_listener())
    await eventually(lambda: all(hearing.gaps for hearing in before), "gaps")
    await eventually(lambda: ledger.received_by_all(100), "all of them at the new master")
    await ledger.stop_publishing()
    await eventually(lambda: not ledger.lost_in_silence(), "gaps for all that was missed")
    for hearing in (*before, *meanwhile):
        assert len(set(hearing.order)) == len(hearing.order), "received twice"
        assert len(hearing.gaps) <= 4


async def test_a_master_that_is_cut_off_is_left_by_all(split: Split, soon: None) -> None:
    await divide(split)


async def test_a_frozen_master_that_comes_back_is_left_by_all(split: Split, soon: None) -> None:
    await divide(split, frozen=1.0)


@pytest.mark.faults
@pytest.mark.timeout(180)
@pytest.mark.parametrize("frozen", [None, 12.0])
async def test_at_full_length(split: Split, frozen: float | None) -> None:
    await divide(split, frozen=frozen)
