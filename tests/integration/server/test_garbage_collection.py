"""When a worker makes full collections, which Python's own rule makes none of there."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from django_ws.server import garbage
from django_ws.server.garbage import GROWTH, LEAST_ENDED, URGENT, Collector
from tests.support.running import Runws

MIB = 1024 * 1024


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The size of the process is what the test says."""
    size = {"bytes": 100 * MIB}
    monkeypatch.setattr(garbage, "_size", lambda: size["bytes"])
    monkeypatch.setattr(gc, "collect", lambda: 0)
    return size


@pytest.fixture
def collector(memory: dict[str, int]) -> Collector:
    return Collector()


def test_none_is_made_while_connections_come_and_stay(
    collector: Collector, memory: dict[str, int]
) -> None:
    for count in range(0, 10_000, 50):
        memory["bytes"] = 100 * MIB + count * 20 * 1024
        collector.look(count, count, 0)
        collector.look(count, count, 0)  # a quiet moment
    assert collector.made == 0


def test_one_is_made_in_a_quiet_moment_after_many_have_ended(collector: Collector) -> None:
    collector.look(10, 10 + LEAST_ENDED, 0)  # some have just come
    assert collector.made == 0
    collector.look(10, 10 + LEAST_ENDED, 0)
    assert collector.made == 1
    collector.look(10, 10 + LEAST_ENDED, 0)
    assert collector.made == 1
    collector.look(10, 9 + 2 * LEAST_ENDED, 0)
    collector.look(10, 9 + 2 * LEAST_ENDED, 0)
    assert collector.made == 1
    collector.look(10, 9 + 2 * LEAST_ENDED, 1)  # a page counts as much
    assert collector.made == 2


def test_the_more_connections_there_are_the_seldomer(collector: Collector) -> None:
    for ended in range(0, 10_001, 100):
        collector.look(10_000, 10_000 + ended, 0)
        assert collector.made == 0
        last = ended
    collector.look(10_000, 10_000 + last, 0)
    assert collector.made == 1


def test_one_is_made_though_it_is_never_quiet(collector: Collector) -> None:
    looks = 0
    while not collector.made:
        looks += 1
        collector.look(50, 50 + looks * 100, 0)
    assert looks == URGENT * LEAST_ENDED / 100


def test_one_is_made_where_memory_grows_for_no_reason_of_ours(
    collector: Collector, memory: dict[str, int]
) -> None:
    memory["bytes"] += GROWTH - 1
    collector.look(0, 0, 0)
    assert collector.made == 0
    memory["bytes"] += 1
    collector.look(0, 0, 0)
    assert collector.made == 1
    memory["bytes"] += GROWTH  # less than the half
    collector.look(0, 0, 0)
    assert collector.made == 1


def test_the_size_of_a_process_is_known_where_the_system_tells_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert 10 * MIB < garbage._size() < 4096 * MIB
    monkeypatch.setattr(garbage, "Path", lambda path: Path("/nowhere/at/all"))
    assert garbage._size() == 0


def test_a_worker_collects_what_its_connections_leave(tmp_path: Path) -> None:
    (tmp_path / "leaky.py").write_text(LEAKY)
    command = ("-m", "django_ws.server", "leaky:application")
    with Runws("--no-access-log", command=command, folder=tmp_path) as server:
        first = page = server.get()
        most = pages = 0
        while page["collections"] == first["collections"]:
            page = server.get()
            most = max(most, page["alive"])
            pages += 1
            assert pages < 2 * URGENT * LEAST_ENDED
        assert page["alive"] < most / 2


LEAKY = """
class Cycle:
    alive = 0
    def __init__(self):
        self.me = self
        Cycle.alive += 1
    def __del__(self):
        Cycle.alive -= 1

# Old enough for young collections not to see them.
import collections, gc
kept = collections.deque(maxlen=30)

async def application(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("pages alone")
    kept.append([Cycle() for _ in range(30)])
    body = b'{"alive": %d, "collections": %d}' % (Cycle.alive, gc.get_stats()[2]["collections"])
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
