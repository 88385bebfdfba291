"""Thousands of handshakes that never finish: others are served, and nothing of them stays."""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.support.fuzzer import SITE, asked, numbers
from tests.support.running import Runws, receive
from tests.support.servers import DEFAULT, KINDS, Server

COUNT = int(os.environ.get("SLOW_HANDSHAKES", "2000"))
SECONDS = 60.0  # the bound of every wait: only a broken test comes near it
WHOLE = (
    b"GET /hangs/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
WARNING = (
    "WebSocket /hangs/: on_connect took longer than WS_CONNECT_TIMEOUT (1 s): refused with 503"
)
HALF = WHOLE[:60]

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(240)]


@pytest.fixture
def server() -> Iterator[Server]:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    started = Server(KINDS[DEFAULT], DJANGO_SETTINGS_MODULE=SITE)
    yield started
    started.stop()
    assert "Traceback" not in started.printed


@contextmanager
def knocking(server: Server | Runws, count: int, data: bytes) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        clients = []
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", server.port), SECONDS)
            clients.append(stack.enter_context(client))
            client.sendall(data)
        yield clients


def answers(clients: list[socket.socket]) -> set[bytes]:
    """The status line of each, once all have one or were closed."""
    waiting = {client.fileno(): client for client in clients}
    found = set()
    with select.epoll() as poll:
        for fileno in waiting:
            poll.register(fileno, select.EPOLLIN)
        end = time.monotonic() + SECONDS
        while waiting and time.monotonic() < end:
            for fileno, _ in poll.poll(1):
                poll.unregister(fileno)
                try:
                    answer = waiting.pop(fileno).recv(1000)
                except ConnectionResetError:
                    answer = b""
                found.add(answer.partition(b"\r\n")[0])
    assert not waiting
    return found


def settled(server: Server, files: int) -> dict[str, int]:
    """The numbers once there are no more files open than this."""
    end = time.monotonic() + SECONDS
    while True:
        now = numbers(server)
        if now["files"] <= files or time.monotonic() > end:
            return now
        time.sleep(0.05)


def served(server: Server) -> bool:
    """Whether a client who behaves gets its answer."""
    return asked(server, "echo", '"hello"') == '"hello"'


def hang(server: Server, count: int) -> None:
    with knocking(server, count, WHOLE) as clients:
        assert served(server)
        assert answers(clients) == {b"HTTP/1.1 503 Service Unavailable"}


def test_handshakes_that_hang_are_refused_when_their_time_is_up(server: Server) -> None:
    hang(server, COUNT)  # the allocators keep what was once needed
    before = numbers(server)
    hang(server, COUNT)
    after = settled(server, before["files"])
    tell(f"{COUNT} that hang: before {before}, after {after}")
    assert after["files"] <= before["files"]
    assert after["running"] == 1  # which is the one that asks
    assert after["memory"] - before["memory"] < 32
    assert after["objects"] - before["objects"] < COUNT
    warnings = [event["message"] for event in server.events(None) if event["event"] == "log"]
    assert 1 <= warnings.count(WARNING) <= len(warnings) < 20


@pytest.mark.parametrize("half", [HALF, b""], ids=["half", "nothing"])
def test_halves_of_a_handshake_keep_nobody_out_of_runws(half: bytes) -> None:
    """The oldest of them make room for others, and those that stay have their time."""
    with (
        Runws("--max-waiting", "200", "--header-timeout", "5", "--no-access-log") as server,
        knocking(server, COUNT, half) as clients,
    ):
        for _ in range(20):
            assert server.get()["path"] == "/"
            with server.connect() as room:
                assert receive(room)
        late = {b"HTTP/1.1 408 Request Timeout"} if half else set()
        assert answers(clients) == {b"", *late}
        server.wait_for("More than 200 connections wait for their client's request")
        lines = [line for line in server.output.lines if "dropped" in line or "408" in line]
        assert len(lines) < 20


def test_half_a_handshake_stays_on_plain_uvicorn_until_its_client_goes(server: Server) -> None:
    """It waits without end for the rest of a head: the docs leave that to a proxy."""
    before = numbers(server)
    with knocking(server, COUNT, HALF) as clients:
        assert served(server)
        readable, _, _ = select.select(clients[:100], [], [], 3.0)
        assert readable == []  # WS_CONNECT_TIMEOUT is over, and none was answered or closed
        during = numbers(server)
        assert during["files"] - before["files"] >= COUNT
        assert during["running"] == 1  # nothing of the library has begun
        assert served(server)
    after = settled(server, before["files"])
    tell(f"{COUNT} halves: before {before}, during {during}, after {after}")
    assert after["files"] <= before["files"]


def tell(line: str) -> None:
    """For those who run it by hand: ``pytest -s``."""
    os.write(1, f"\n{json.dumps(line)}\n".encode())
