"""A storm of handshakes: how long each takes, and what it is like for those already connected."""

import gc
import select
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter

from benchmarks import frames
from benchmarks.clients import learn_answer, one_message_each, opened
from benchmarks.findings import Finding
from benchmarks.rounds import Plan
from benchmarks.runws import runws
from benchmarks.server import Server, serve

_CONNECTED = 20  # sockets, of which one says something every
_EVERY_SECONDS = 0.005
_PATIENCE_SECONDS = 60.0
_WARM_UP = 500  # handshakes at the same rate, before the clock runs
_P99_TARGET_MS = 10.0

_SERVERS: dict[str, Callable[[], AbstractContextManager[Server]]] = {
    "runws": lambda: runws("runws"),
    "uvicorn": lambda: serve("django_ws"),
    "bare": lambda: serve("bare"),
}


@dataclass
class _Storm:
    """What the clients saw; times in milliseconds, from the moment each was due."""

    answers: list[float] = field(default_factory=list)
    echoes: list[float] = field(default_factory=list)
    refused: int = 0

    def p99(self) -> float:
        return _percentile(self.answers, 99)


def _percentile(times: Sequence[float], percent: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * percent / 100))]


class _Clients:
    """Opens sockets at a rate, or as fast as it goes, while others are in conversation."""

    def __init__(self, server: Server, talkers: list[socket.socket], epoll: select.epoll) -> None:
        self.server, self.epoll = server, epoll
        self.request = frames.handshake(server.port, frames.JSON.path)
        self.message = frames.masked(frames.JSON.text)
        self.answer = learn_answer(server, frames.JSON)
        self.talkers = {talker.fileno(): talker for talker in talkers}
        self.asked: dict[int, float] = {}  # talkers that have not been answered
        self.coming: dict[int, tuple[socket.socket, float]] = {}
        self.here: list[socket.socket] = []
        for talker in talkers:
            epoll.register(talker, select.EPOLLIN)

    def run(self, count: int, rate: float | None) -> _Storm:
        found = _Storm()
        start = perf_counter()
        deadline = start + (count / rate if rate else 0) + _PATIENCE_SECONDS
        sent, next_word, turn = 0, start, 0
        talkers = list(self.talkers)
        while len(found.answers) + found.refused < count or self.asked:
            now = perf_counter()
            if now > deadline:
                raise RuntimeError(f"{len(self.coming)} handshakes were not answered")
            while sent < count and (rate is None or now >= start + sent / rate):
                self._enter(start + sent / rate if rate else now)
                sent += 1
                if rate is None and sent % 50 == 0:
                    break
            if now >= next_word and len(found.answers) + found.refused < count:
                talker = talkers[turn % len(talkers)]
                turn += 1
                next_word = now + _EVERY_SECONDS
                if talker not in self.asked:
                    self.asked[talker] = now
                    self.talkers[talker].send(self.message)
            for fileno, event in self.epoll.poll(0, 1024):
                if event == select.EPOLLOUT:
                    self._ask(fileno)
                else:
                    self._read(fileno, found)
        return found

    def _enter(self, due: float) -> None:
        client = socket.socket()
        client.setblocking(False)  # where the server's queue is full, the kernel asks again in 1 s
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.connect_ex(("127.0.0.1", self.server.port))
        self.coming[client.fileno()] = client, due
        self.epoll.register(client, select.EPOLLOUT)

    def _ask(self, fileno: int) -> None:
        self.coming[fileno][0].sendall(self.request)
        self.epoll.modify(fileno, select.EPOLLIN)

    def _read(self, fileno: int, found: _Storm) -> None:
        if fileno in self.talkers:
            if self.talkers[fileno].recv(4096) != self.answer:
                raise RuntimeError("a socket that was connected did not get its echo")
            found.echoes.append((perf_counter() - self.asked.pop(fileno)) * 1000)
            return
        client, due = self.coming.pop(fileno)
        answer = client.recv(4096)  # always whole on the loopback interface
        self.epoll.unregister(client)
        self.here.append(client)
        if answer.startswith(frames.ACCEPTED):
            found.answers.append((perf_counter() - due) * 1000)
        elif answer.startswith(b"HTTP/1.1 503 "):
            found.refused += 1
        else:
            raise RuntimeError(f"the handshake was answered {answer!r}")

    def leave(self) -> None:
        for client in self.here:
            client.close()


@contextmanager
def _clients(server: Server) -> Iterator[_Clients]:
    with select.epoll() as epoll, opened(server, frames.JSON.path, _CONNECTED) as talkers:
        one_message_each(talkers, frames.JSON)
        clients = _Clients(server, talkers, epoll)
        gc.disable()  # here, too, it would be felt
        try:
            yield clients
        finally:
            gc.enable()
            clients.leave()


def measure(plan: Plan) -> list[Finding]:
    findings = [finding for rate in plan.storm_rates for finding in _at_rate(plan, rate)]
    findings.append(_at_once(plan))
    for finding in findings:
        print(finding.details(), flush=True)
    return findings


def _at_rate(plan: Plan, rate: float) -> list[Finding]:
    rounds: dict[str, list[_Storm]] = {name: [] for name in _SERVERS}
    for _ in range(plan.storm_rounds):
        for name, start in _SERVERS.items():
            with start() as server, _clients(server) as clients:
                clients.run(_WARM_UP, rate)
                rounds[name].append(clients.run(plan.storm, rate))
    title = f"{plan.storm:,} handshakes at {rate:,.0f} a second"
    print(f"\n{title} (medians of {plan.storm_rounds} rounds)")
    for name, storms in rounds.items():
        _print(name, storms)
    floor = median(_percentile(storm.answers, 50) for storm in rounds["bare"])
    doubt = f"even half of bare's took {floor:.0f} ms" if floor > _P99_TARGET_MS else ""
    return [
        Finding(
            f"{title}: p99 of {name}",
            [storm.p99() for storm in storms],
            _P99_TARGET_MS if name == "runws" else None,
            unit="ms",
            at_most=True,
            doubt=doubt,
        )
        for name, storms in rounds.items()
    ]


def _at_once(plan: Plan) -> Finding:
    floods: list[_Storm] = []
    for _ in range(plan.storm_rounds):
        with runws("runws") as server, _clients(server) as clients:
            floods.append(clients.run(plan.flood, None))
    print(f"\n{plan.flood:,} handshakes at once")
    _print("runws", floods)
    return Finding(
        f"{plan.flood:,} handshakes at once: p99 of the others' echoes",
        [_percentile(flood.echoes, 99) for flood in floods],
        unit="ms",
        at_most=True,
    )


def _print(name: str, storms: Sequence[_Storm]) -> None:
    def shown(times: Callable[[_Storm], Sequence[float]]) -> str:
        figures = [
            median(_percentile(times(storm), percent) for storm in storms)
            for percent in (50, 99, 100)
        ]
        return " / ".join(f"{figure:,.1f}" for figure in figures)

    print(
        f"  {name:<10} p50 / p99 / worst of the handshakes: {shown(lambda s: s.answers)} ms, "
        f"of echoes meanwhile: {shown(lambda s: s.echoes)} ms; "
        f"{sum(storm.refused for storm in storms)} refused",
        flush=True,
    )
