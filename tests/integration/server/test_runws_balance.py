"""Connections are spread evenly over the workers, and none is refused in a restart."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import Collection
from contextlib import suppress

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.support.running import SECONDS, Runws

WORKERS, SOCKETS = 3, 240
MOST = 1.3  # times as many on the fullest worker as on the emptiest


class Clients:
    """Sockets that are opened again whenever they are closed."""

    def __init__(self, server: Runws) -> None:
        self.url = f"ws://127.0.0.1:{server.port}/room/"
        self.workers: Counter[int] = Counter()
        self.refused: list[str] = []

    async def stay(self) -> None:
        while True:
            try:
                async with connect(
                    self.url, open_timeout=SECONDS, ping_interval=None, proxy=None
                ) as client:
                    pid = json.loads(await client.recv())["pid"]
                    self.workers[pid] += 1
                    try:
                        with suppress(ConnectionClosed):
                            while True:
                                await client.recv()
                    finally:
                        self.workers[pid] -= 1
            except Exception as error:  # refused, cut off, answered otherwise
                self.refused.append(repr(error))

    async def all_there(self, without: Collection[int] = ()) -> None:
        async with asyncio.timeout(2 * SECONDS):
            while (  # noqa: ASYNC110  # no event
                self.workers.total() != SOCKETS or any(self.workers[pid] for pid in without)
            ):
                await asyncio.sleep(0.05)

    @property
    def ratio(self) -> float:
        counts = [count for count in self.workers.values() if count]
        assert len(counts) == WORKERS, counts
        return max(counts) / min(counts)


@pytest.mark.timeout(180)
async def test_sockets_are_spread_evenly_at_once_and_after_a_restart() -> None:
    environment = {"RUNWS_FRESH_SECONDS": "40"}
    with Runws("--no-access-log", workers=WORKERS, environment=environment) as server:
        before = set(server.ready)
        clients = Clients(server)
        async with asyncio.TaskGroup() as group:
            staying = [group.create_task(clients.stay()) for _ in range(SOCKETS)]
            await clients.all_there()
            assert clients.ratio <= MOST
            server.signal(signal.SIGHUP)
            await clients.all_there(without=before)
            assert clients.ratio <= MOST
            assert clients.refused == []
            for task in staying:
                task.cancel()
