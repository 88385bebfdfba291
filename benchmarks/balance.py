"""How evenly three workers share connections: all at once, and after a rolling restart."""

import asyncio
import json
import os
import signal
from collections import Counter
from time import perf_counter

from benchmarks import frames
from benchmarks.findings import Finding
from benchmarks.rounds import Plan
from benchmarks.runws import runws
from benchmarks.server import Server

_PATH = "/store/"  # tells which worker it is
_WORKERS = 3
_PATIENCE_SECONDS = 120.0
_NEW_EVERY_SECONDS = 0.01  # visitors that come and go while the workers are restarted
_CLOSE = 0x8


class _Site:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.request = frames.handshake(server.port, _PATH)
        self.workers: Counter[int] = Counter()  # connections of each
        self.refused: Counter[str] = Counter()  # handshakes, by what happened instead
        self.opened = 0


class _Client(asyncio.Protocol):
    """One socket; where it ``stays`` it is opened again when it is closed."""

    def __init__(self, site: _Site, *, stays: bool) -> None:
        self.site = site
        self.stays = stays
        self.worker = 0
        self.told = asyncio.get_running_loop().create_future()

    async def connect(self) -> None:
        self.data, self.is_accepted = b"", False
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self, "127.0.0.1", self.site.server.port)
        except OSError as error:
            self.site.refused[repr(error)] += 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self.site.request)

    def data_received(self, data: bytes) -> None:
        self.data += data
        if not self.is_accepted:
            head, found, rest = self.data.partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(frames.ACCEPTED):
                self.site.refused[head.partition(b"\r\n")[0].decode()] += 1
                self.transport.close()
                return
            self.data, self.is_accepted = rest, True
            self.site.opened += 1
        while len(self.data) >= 2 and len(self.data) >= 2 + self.data[1]:
            kind, size = self.data[0] & 0xF, self.data[1]  # all are short, and none is in parts
            payload, self.data = self.data[2 : 2 + size], self.data[2 + size :]
            if kind == _CLOSE:
                self.transport.write(frames.CLOSE)
            elif not self.worker and isinstance(answer := json.loads(payload), dict):
                self.worker = answer["pid"]
                self.site.workers[self.worker] += 1
                if not self.told.done():
                    self.told.set_result(None)
                if not self.stays:
                    self.transport.write(frames.CLOSE)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.is_accepted and not self.data:
            self.site.refused[f"cut off: {error!r}"] += 1
        if self.worker:
            self.site.workers[self.worker] -= 1
            self.worker = 0
        if self.stays:
            self.again = asyncio.ensure_future(self.connect())


async def _all_ready(site: _Site) -> None:
    """Until visitors have reached every worker."""
    seen: set[int] = set()
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while len(seen) < _WORKERS:
            some = [_Client(site, stays=False) for _ in range(20)]
            await asyncio.gather(*(client.connect() for client in some))
            await asyncio.gather(*(client.told for client in some))
            seen |= {pid for pid, _ in site.workers.items()}
            await asyncio.sleep(0.1)
    site.workers.clear()
    site.opened = 0


async def _visit(site: _Site) -> None:
    visitors = set()
    while True:
        visitor = _Client(site, stays=False)
        visitors.add(asyncio.ensure_future(visitor.connect()))
        visitors = {each for each in visitors if not each.done()}
        await asyncio.sleep(_NEW_EVERY_SECONDS)


async def _run(server: Server, plan: Plan) -> list[Finding]:
    site = _Site(server)
    await _all_ready(site)
    began = perf_counter()
    clients = [_Client(site, stays=True) for _ in range(plan.balance_sockets)]
    async with asyncio.timeout(_PATIENCE_SECONDS):
        await asyncio.gather(*(client.connect() for client in clients))
        await asyncio.gather(*(client.told for client in clients))
    print(f"\n{plan.balance_sockets:,} sockets at once, {perf_counter() - began:.1f} s")
    findings = _found(site, "at once")

    before = set(site.workers)
    visiting = asyncio.ensure_future(_visit(site))
    opened, began = site.opened, perf_counter()
    os.kill(server.pid, signal.SIGHUP)
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while (  # noqa: ASYNC110
            any(site.workers[pid] for pid in before)
            or sum(client.worker != 0 for client in clients) < len(clients)
        ):
            await asyncio.sleep(0.1)
    visiting.cancel()
    print(
        f"rolling restart, {perf_counter() - began:.1f} s, "
        f"{site.opened - opened:,} handshakes meanwhile"
    )
    await asyncio.sleep(1)
    findings += _found(site, "after a rolling restart")
    for client in clients:
        client.stays = False
        client.transport.abort()
    return findings


def _found(site: _Site, when: str) -> list[Finding]:
    counts = sorted(count for count in site.workers.values() if count)
    print(f"  on the workers: {counts}; not served: {dict(site.refused) or 'none'}")
    ratio = counts[-1] / counts[0] if len(counts) == _WORKERS else float("inf")
    title = f"{sum(counts):,} sockets {when}"
    return [
        Finding(f"{title}: most / fewest of a worker", [ratio], 1.3, at_most=True),
        Finding(f"{title}: refused or cut off", [site.refused.total()], 0, at_most=True),
    ]


def measure(plan: Plan) -> list[Finding]:
    environment = {
        "BENCHMARK_STORE": os.devnull,
        "BENCHMARK_DRAIN_SECONDS": str(plan.restart_drain),
    }
    with runws("runws", workers=_WORKERS, **environment) as server:
        findings = asyncio.run(_run(server, plan))
    for finding in findings:
        print(finding.details(), flush=True)
    return findings
