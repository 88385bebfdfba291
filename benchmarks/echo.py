"""Echo: so many connections, one message under way on each."""

import select
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from benchmarks import frames
from benchmarks.clients import one_message_each, opened
from benchmarks.findings import Finding
from benchmarks.load import Load, poll
from benchmarks.rounds import Plan, compare
from benchmarks.server import Server


class _Echo:
    """Sends the next message for each answer, and reads every byte of every answer."""

    def __init__(self, clients: Sequence[socket.socket], frame: bytes, answer: bytes) -> None:
        self.reads = {client.fileno(): client.recv for client in clients}
        self.writes = {client.fileno(): client.send for client in clients}
        self.partial: dict[int, bytes] = {}
        self.frame, self.answer = frame, answer

    def start(self) -> None:
        for write in self.writes.values():
            write(self.frame)

    def read(self, fileno: int) -> int:
        data = self.reads[fileno](4096)
        if data != self.answer:
            data = self.partial.pop(fileno, b"") + data
            if data != self.answer:
                if not data or not self.answer.startswith(data):
                    raise RuntimeError(f"not an echo: {data!r}")
                self.partial[fileno] = data
                return 0
        return 1

    def read_and_write(self, fileno: int) -> int:
        answers = self.read(fileno)
        if answers:
            self.writes[fileno](self.frame)
        return answers

    def drain(self, epoll: select.epoll) -> None:
        """Reads the last answers, so that the server has nothing left to do."""
        left = len(self.reads)
        while left:
            events = epoll.poll(10)
            if not events:
                raise RuntimeError(f"{left} answers did not arrive")
            left -= sum(self.read(fileno) for fileno, _ in events)


@contextmanager
def echoing(
    server: Server, message: frames.Message, connections: int
) -> Iterator[Callable[[float], Load]]:
    with opened(server, message.path, connections) as clients, select.epoll() as epoll:
        frame = frames.masked(message.text)
        echo = _Echo(clients, frame, one_message_each(clients, message))
        for client in clients:
            client.setblocking(False)
            epoll.register(client, select.EPOLLIN)

        def run(seconds: float) -> Load:
            used = server.cpu_seconds()
            echo.start()
            load = poll(epoll, echo.read_and_write, seconds)
            used = server.cpu_seconds() - used
            echo.drain(epoll)
            return replace(load, server_seconds=used)

        yield run


def measure(servers: Sequence[Server], plan: Plan) -> list[Finding]:
    findings = []
    for kind, message, targets in (
        ("text", frames.TEXT, {"bare": 0.95}),
        ("JSON", frames.JSON, {"bare": 1.0, "channels": 4.0}),
    ):
        for connections in (1, 100):
            findings += compare(
                f"{kind} echo, {connections} at once",
                servers,
                partial(echoing, message=message, connections=connections),
                plan,
                targets if connections == 100 else {},
            )
    return findings
