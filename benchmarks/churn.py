"""Connections with a log-in that come and go: does a worker's memory stay what it is?"""

import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from benchmarks import frames
from benchmarks.findings import Finding
from benchmarks.rounds import Plan
from benchmarks.runws import runws
from benchmarks.server import Server

_AT_ONCE = 50
_WARM_UP = 0.1  # of all connections: what a process needs, it needs by then
_MOST_GROWTH_MB = 10.0
_PATIENCE_SECONDS = 60.0

_LOG_IN = """
import django; django.setup()
from django.contrib.auth.models import User
from django.test import Client
user, _ = User.objects.get_or_create(username="alice")
client = Client()
client.force_login(user)
print(client.cookies["sessionid"].value)
"""


def _session() -> str:
    """The key of a session of a user who is logged in."""
    command = [sys.executable, "-c", _LOG_IN]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class _Visitors:
    """Each opens a socket, says something, hears it, says goodbye, and is followed by another."""

    def __init__(self, server: Server, session: str) -> None:
        head = frames.handshake(server.port, frames.JSON.path)
        self.request = head[:-2] + f"Cookie: sessionid={session}\r\n\r\n".encode()
        self.message = frames.masked(frames.JSON.text)
        self.port = server.port
        self.epoll = select.epoll()
        self.there: dict[int, tuple[socket.socket, Iterator[None]]] = {}
        self.ended = 0

    def run(self, count: int) -> None:
        goal = self.ended + count
        heard = perf_counter()
        while self.ended < goal:
            while len(self.there) < min(_AT_ONCE, goal - self.ended):
                self._enter()
            for fileno, _ in self.epoll.poll(1):
                heard = perf_counter()
                client, steps = self.there[fileno]
                if next(steps, client) is client:
                    self.epoll.unregister(client)
                    client.close()
                    del self.there[fileno]
                    self.ended += 1
            if perf_counter() - heard > _PATIENCE_SECONDS:
                raise RuntimeError(f"{len(self.there)} visitors hear nothing")

    def _enter(self) -> None:
        client = socket.create_connection(("127.0.0.1", self.port))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(self.request)
        self.there[client.fileno()] = client, self._steps(client)
        self.epoll.register(client, select.EPOLLIN)

    def _steps(self, client: socket.socket) -> Iterator[None]:
        """What each answer is, and what is said to it."""
        answer = client.recv(4096)
        if not answer.startswith(frames.ACCEPTED):
            raise RuntimeError(f"the handshake was answered {answer!r}")
        client.sendall(self.message)
        yield
        frames.unframed(client.recv(4096))
        client.sendall(frames.CLOSE)
        yield
        client.recv(4096)  # the answer to the close, or the end


def _worker(server: Server) -> Server:
    """The one worker, instead of its parent."""
    deadline = perf_counter() + _PATIENCE_SECONDS
    while perf_counter() < deadline:
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        for child in children:
            command = Path(f"/proc/{child}/cmdline").read_bytes()
            if b"spawn_main" in command:
                return replace(server, pid=int(child))
    raise RuntimeError("there is no worker")


def measure(plan: Plan) -> list[Finding]:
    session = _session()
    with runws("runws") as server:
        visitors = _Visitors(server, session)
        visitors.run(_AT_ONCE)
        worker = _worker(server)
        began = perf_counter()
        sizes = []
        for _ in range(10):
            visitors.run(int(plan.churn * _WARM_UP))
            sizes.append(worker.memory() / 1e6)
    rate = plan.churn / (perf_counter() - began)
    print(
        f"\n{plan.churn:,} connections with a log-in, {_AT_ONCE} at a time, {rate:,.0f} a second\n"
        f"  MB after each tenth: {', '.join(f'{size:.0f}' for size in sizes)}"
    )
    finding = Finding(
        f"{plan.churn:,} connections come and go: growth after the first tenth",
        [sizes[-1] - sizes[0]],
        _MOST_GROWTH_MB,
        unit="MB",
        at_most=True,
    )
    print(finding.details(), flush=True)
    return [finding]
