"""Connections leave nothing behind."""

from __future__ import annotations

import asyncio
import json

import pytest
from websockets.asyncio.client import connect

from tests.e2e.conftest import Start
from tests.support.servers import DEFAULT, KINDS, Kind, Server
from tests.support.visit import Visit

AT_ONCE = 20


async def open_and_close(visit: Visit, count: int) -> None:
    """Open, echo and close, 20 connections at a time; every other one just vanishes."""

    async def one_after_another(times: int) -> None:
        for number in range(times):
            client = await connect(
                visit.url("mortal/"), compression=None, ping_interval=None, proxy=None
            )
            await client.send("1")
            assert await client.recv() == "1"
            if number % 2:
                client.transport.abort()
            await client.close()

    async with asyncio.timeout(150), asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(one_after_another(count // AT_ONCE))


def numbers(visit: Visit, began: int) -> dict[str, int]:
    """What the server says of its memory once ``began`` connections have ended."""
    visit.wait_for("ended", began)
    with visit.connect("memory/") as client:
        client.send("1")
        answer: dict[str, int] = json.loads(client.recv(10))
        return answer


def check_growth(server: Server, warm_up: int, count: int) -> None:
    visit = Visit(server)
    asyncio.run(open_and_close(visit, warm_up))
    before = numbers(visit, warm_up)
    asyncio.run(open_and_close(visit, count))
    after = numbers(visit, warm_up + 1 + count)
    assert after["alive"] == 0
    assert after["objects"] - before["objects"] < count // 10
    assert after["peak"] - before["peak"] < 4 * 1024 * 1024
    visit.check()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_handlers_die_with_their_connections(start: Start, kind: Kind) -> None:
    visit = Visit(start(kind))
    asyncio.run(open_and_close(visit, 200))
    assert numbers(visit, 200)["alive"] == 0  # without the help of the garbage collector
    visit.check()


def test_a_thousand_connections_leave_no_memory_behind(start: Start) -> None:
    check_growth(start(KINDS[DEFAULT]), 300, 1000)


@pytest.mark.heavy
@pytest.mark.timeout(180)
def test_five_thousand_connections_leave_no_memory_behind(start: Start) -> None:
    check_growth(start(KINDS[DEFAULT]), 1000, 5000)
