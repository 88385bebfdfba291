"""A rolling restart of two workers under load: is anything lost, and do all come back at once?"""

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from benchmarks import frames
from benchmarks.findings import Finding
from benchmarks.rounds import Plan
from benchmarks.runws import runws
from benchmarks.server import Server

_PATH = "/store/"
_WORKERS = 2
_WINDOW_SECONDS = 0.5
_PATIENCE_SECONDS = 120.0
_AT_ONCE = 50
_TEXT, _PING, _CLOSE = 0x1, 0x9, 0x8


class _Site:
    """All clients, and what became of their messages."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.request = frames.handshake(server.port, _PATH)
        self.open: list[_Client] = []
        self.unanswered: dict[int, str] = {}  # messages that no acknowledgement has come for
        self.acknowledged: set[int] = set()
        self.codes: list[int] = []
        self.told = 0  # last words
        self.reconnects: list[float] = []
        self.refused = 0
        self.sent = self.repeated = 0

    def say(self) -> None:
        """One message more, on the next of the open sockets."""
        self.sent += 1
        self.open[self.sent % len(self.open)].say(self.sent)


class _Client(asyncio.Protocol):
    """One socket. It is opened again as soon as it is closed, and repeats what was not answered."""

    def __init__(self, site: _Site) -> None:
        self.site = site
        self.data = b""
        self.is_accepted = False
        self.waiting: set[int] = set()
        self.worker = 0  # the process that it is connected to
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.data, self.is_accepted, self.transport = b"", False, transport
        transport.write(self.site.request)

    def data_received(self, data: bytes) -> None:
        self.data += data
        if not self.is_accepted:
            head, found, rest = self.data.partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(frames.ACCEPTED):
                self.site.refused += 1
                self.transport.close()
                return
            self.data, self.is_accepted = rest, True
            self.site.open.append(self)
            if not self.opened.done():
                self.opened.set_result(None)
            for number in list(self.waiting):
                self.site.repeated += 1
                self.say(number)
        while len(self.data) >= 2 and len(self.data) >= 2 + self.data[1]:
            kind, size = self.data[0] & 0xF, self.data[1]  # all are short, and none is in parts
            payload, self.data = self.data[2 : 2 + size], self.data[2 + size :]
            self._handle(kind, payload)

    def _handle(self, kind: int, payload: bytes) -> None:
        if kind == _TEXT:
            answer = json.loads(payload)
            if answer == "restart":
                self.site.told += 1
            elif isinstance(answer, dict):
                self.worker = answer["pid"]
            else:
                self.waiting.discard(answer)
                self.site.acknowledged.add(answer)
        elif kind == _CLOSE:
            self.site.codes.append(int.from_bytes(payload[:2], "big"))
            self.site.open.remove(self)
            self.is_accepted = False
            self.transport.write(frames.CLOSE)

    def connection_lost(self, error: Exception | None) -> None:
        if self.is_accepted:  # without a close frame
            self.site.open.remove(self)
            self.is_accepted = False
            if self.stays:
                self.site.codes.append(1006)
        if not self.stays:
            return
        self.site.reconnects.append(perf_counter())
        self.connecting = asyncio.ensure_future(self.connect())

    def say(self, number: int) -> None:
        self.waiting.add(number)
        self.transport.write(frames.masked(str(number)))

    async def connect(self) -> None:
        self.stays = True
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, "127.0.0.1", self.site.server.port)


async def _run(server: Server, plan: Plan) -> tuple[_Site, float]:
    """Gives the seconds from the first reconnect to the last, too."""
    site = _Site(server)
    await _all_workers(site)
    clients = [_Client(site) for _ in range(plan.restart_sockets)]
    for start in range(0, len(clients), _AT_ONCE):
        some = clients[start : start + _AT_ONCE]
        await asyncio.gather(*(client.connect() for client in some))
        await asyncio.gather(*(client.opened for client in some))
    talking = asyncio.create_task(_talk(site, plan.restart_messages))
    await asyncio.sleep(1)
    before = {client.worker for client in clients}
    if len(before) != _WORKERS:
        raise RuntimeError(f"{len(before)} workers have the sockets, not {_WORKERS}")
    os.kill(server.pid, signal.SIGHUP)
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while any(client.worker in before for client in clients):  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        await asyncio.sleep(1)
        talking.cancel()
        while any(client.waiting for client in clients):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    for client in clients:
        client.stays = False
        client.transport.abort()
    return site, max(site.reconnects) - min(site.reconnects)


async def _all_workers(site: _Site) -> None:
    """Wait until all are ready: until one socket or another has reached each."""
    probes: list[_Client] = []
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while len({probe.worker for probe in probes} - {0}) < _WORKERS:
            probes.append(_Client(site))
            await probes[-1].connect()
            await asyncio.sleep(0.05)
    for probe in probes:
        probe.stays = False
        probe.transport.abort()


async def _talk(site: _Site, rate: float) -> None:
    start = perf_counter()
    while True:
        while site.sent < (perf_counter() - start) * rate:
            site.say()
        await asyncio.sleep(0.001)


def most_in_window(times: Sequence[float], seconds: float = _WINDOW_SECONDS) -> int:
    """The most of them within any stretch of so many seconds."""
    times = sorted(times)
    most = first = 0
    for last, time in enumerate(times):
        while time - times[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def measure(plan: Plan) -> list[Finding]:
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        environment = {
            "BENCHMARK_STORE": str(store),
            "BENCHMARK_DRAIN_SECONDS": str(plan.restart_drain),
        }
        with runws("runws", workers=_WORKERS, **environment) as server:
            site, seconds = asyncio.run(_run(server, plan))
        stored = [int(line) for line in store.read_text().splitlines()]
    lost = site.acknowledged - set(stored)
    even = len(site.reconnects) / (_WORKERS * plan.restart_drain) * _WINDOW_SECONDS
    most = most_in_window(site.reconnects)
    codes = ", ".join(f"{site.codes.count(code)} with {code}" for code in sorted({*site.codes}))
    print(
        f"\nrolling restart of {_WORKERS} workers, {plan.restart_sockets:,} sockets, "
        f"{plan.restart_messages:g} messages a second, WS_DRAIN_SECONDS = {plan.restart_drain:g}\n"
        f"  {site.sent:,} messages, {len(site.acknowledged):,} acknowledged, {len(lost)} of these "
        f"lost; {site.repeated} repeated, {len(stored) - len({*stored})} stored twice\n"
        f"  closes: {codes}; {site.told} last words, {site.refused} handshakes refused\n"
        f"  {len(site.reconnects):,} reconnects in {seconds:.1f} s, at most {most} in "
        f"{_WINDOW_SECONDS:g} s, where {even:.0f} would be even"
    )
    missing = site.sent - len(site.acknowledged)
    findings = [
        Finding("rolling restart: acknowledged messages lost", [len(lost)], 0, at_most=True),
        Finding("rolling restart: messages never acknowledged", [missing], 0, at_most=True),
        Finding(
            "rolling restart: most reconnects in 500 ms / even rate",
            [most / even],
            2.0,
            at_most=True,
        ),
    ]
    for finding in findings:
        print(finding.details(), flush=True)
    return findings
