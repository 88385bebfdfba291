"""Connect, one JSON echo, close: 20 visitors at a time."""

import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from benchmarks import frames
from benchmarks.clients import connect, learn_answer
from benchmarks.findings import Finding
from benchmarks.load import Load, poll
from benchmarks.rounds import Plan, compare
from benchmarks.server import Server

_VISITORS = 20


class _Visit:
    """One visitor: waits for the handshake's answer, the echo and the end of the connection."""

    __slots__ = ("client", "received", "step")

    def __init__(self, server: Server, request: bytes) -> None:
        self.client = connect(server)
        self.client.sendall(request)
        self.client.setblocking(False)
        self.received = b""
        self.step: Callable[[bytes, _Street], bool] = self.handshake

    def handshake(self, data: bytes, street: "_Street") -> bool:
        if self.received.endswith(b"\r\n\r\n") and self.received.startswith(frames.ACCEPTED):
            self._next(self.echo, street.frame)
        elif not data:
            raise RuntimeError(f"the handshake was answered {self.received!r}")
        return False

    def echo(self, data: bytes, street: "_Street") -> bool:
        if self.received == street.answer:
            self._next(self.end, frames.CLOSE)
        elif not street.answer.startswith(self.received) or not data:
            raise RuntimeError(f"not an echo: {self.received!r}")
        return False

    def end(self, data: bytes, street: "_Street") -> bool:
        if not data and self.received != frames.CLOSE_ANSWER:
            raise RuntimeError(f"the close was answered {self.received!r}")
        return not data

    def _next(self, step: Callable[[bytes, "_Street"], bool], frame: bytes) -> None:
        self.received, self.step = b"", step
        self.client.send(frame)


class _Street:
    """All visitors of one server. Who leaves is followed by the next at once."""

    def __init__(self, server: Server, epoll: select.epoll) -> None:
        self.server, self.epoll = server, epoll
        self.request = frames.handshake(server.port, frames.JSON.path)
        self.frame = frames.masked(frames.JSON.text)
        self.answer = learn_answer(server, frames.JSON)
        self.visits: dict[int, _Visit] = {}

    def enter(self) -> None:
        visit = _Visit(self.server, self.request)
        self.visits[visit.client.fileno()] = visit
        self.epoll.register(visit.client, select.EPOLLIN)

    def read(self, fileno: int) -> int:
        visit = self.visits[fileno]
        data = visit.client.recv(4096)
        visit.received += data
        if not visit.step(data, self):
            return 0
        del self.visits[fileno]
        visit.client.close()
        return 1

    def read_and_replace(self, fileno: int) -> int:
        left = self.read(fileno)
        if left:
            self.enter()
        return left

    def run(self, seconds: float) -> Load:
        used = self.server.cpu_seconds()
        for _ in range(_VISITORS):
            self.enter()
        load = poll(self.epoll, self.read_and_replace, seconds)
        used = self.server.cpu_seconds() - used
        while self.visits:
            events = self.epoll.poll(10)
            if not events:
                raise RuntimeError(f"{len(self.visits)} visits did not end")
            for fileno, _ in events:
                self.read(fileno)
        return replace(load, server_seconds=used)


@contextmanager
def visiting(server: Server) -> Iterator[Callable[[float], Load]]:
    with select.epoll() as epoll:
        yield _Street(server, epoll).run


def measure(servers: Sequence[Server], plan: Plan) -> list[Finding]:
    title = f"connect, JSON echo, close, {_VISITORS} at once"
    return compare(title, servers, visiting, plan, {"bare": 0.85})
