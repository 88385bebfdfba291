"""Broadcasts between two server processes and the command line, through a real Redis."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from django_ws.conf import DEFAULT_PREFIX
from django_ws.pubsub import Publisher
from django_ws.pubsub.backends.redis import RedisPublisher
from django_ws.pubsub.envelope import seal
from tests import ROOT
from tests.e2e.conftest import SERVERS
from tests.support.raw import RawClient
from tests.support.redis_server import RedisServer, until
from tests.support.servers import DEFAULT, FAST, KINDS, Server

SECONDS = 20.0


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module", params=[name for name in (DEFAULT, FAST) if name in SERVERS])
def servers(redis_server: RedisServer, request: pytest.FixtureRequest) -> Iterator[list[Server]]:
    """Of a server that is given each message, and of one that writes one frame to all."""
    started: list[Server] = []
    try:
        for _ in range(2):
            started.append(Server(KINDS[request.param], E2E_REDIS=redis_server.url))
        yield started
    finally:
        for server in started:
            server.stop()


@pytest.fixture
def clients(
    servers: list[Server], request: pytest.FixtureRequest
) -> Iterator[list[ClientConnection]]:
    """One at each server, in the same room."""
    with ExitStack() as stack:
        urls = [f"ws://127.0.0.1:{server.port}/{request.node.name}/room/" for server in servers]
        yield [stack.enter_context(connect(url, open_timeout=SECONDS)) for url in urls]


def received(clients: list[ClientConnection]) -> list[Any]:
    return [json.loads(client.recv(SECONDS)) for client in clients]


def run(*arguments: str, redis_server: RedisServer) -> str:
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.e2e.site.settings",
        "E2E_REDIS": redis_server.url,
        "E2E_JOURNAL": "2",  # the standard error, which is captured
    }
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True, timeout=60
    ).stdout


def test_a_broadcast_reaches_every_process(clients: list[ClientConnection]) -> None:
    for number, client in enumerate(clients):
        client.send(json.dumps({"from": number}))
        assert received(clients) == [{"from": number}] * 2


def test_the_order_of_one_publisher_is_kept(clients: list[ClientConnection]) -> None:
    for number in range(500):
        clients[0].send(str(number))
    assert [received(clients) for _ in range(500)] == [[number] * 2 for number in range(500)]


def test_the_command_line_reaches_every_process(
    clients: list[ClientConnection], redis_server: RedisServer, request: pytest.FixtureRequest
) -> None:
    topic = f"room:{request.node.name}"
    run("-m", "django", "wsbroadcast", topic, '{"a": 1}', redis_server=redis_server)
    assert received(clients) == [{"a": 1}] * 2


def test_a_process_without_django_reaches_every_process(
    clients: list[ClientConnection], redis_server: RedisServer, request: pytest.FixtureRequest
) -> None:
    code = (
        "from django_ws.pubsub import Publisher\n"
        f"Publisher({redis_server.url!r}).broadcast({f'room:{request.node.name}'!r}, [1])\n"
    )
    run("-c", code, redis_server=redis_server)
    assert received(clients) == [[1]] * 2


def lines_about_redis(server: Server) -> list[str]:
    messages = [event["message"] for event in server.events(None)]
    return [message for message in messages if "redis://" in message]


def test_sockets_outlive_a_restart_of_redis_and_are_told_of_the_gap(
    clients: list[ClientConnection],
    servers: list[Server],
    redis_server: RedisServer,
    request: pytest.FixtureRequest,
) -> None:
    clients[0].send("1")
    assert received(clients) == [1, 1]
    before = redis_server.pid
    redis_server.kill()
    redis_server.start()
    assert redis_server.pid != before
    assert received(clients) == [{"gap": [f"room:{request.node.name}"]}] * 2
    clients[0].send("2")
    assert received(clients) == [2, 2]
    for server in servers:
        until(lambda: len(lines_about_redis(server)) >= 2, "lines of the log")  # noqa: B023
        assert len(lines_about_redis(server)) == 2, lines_about_redis(server)


def room_of(server: Server, room: str, **options: Any) -> RawClient:
    client = RawClient(server.port, f"/{room}/room/".encode(), **options)
    assert client.status() == 101
    return client


def resident_bytes(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def publish(redis_server: RedisServer, room: str, count: int, text: str) -> None:
    with Publisher(redis_server.url) as publisher:
        for number in range(count):
            publisher.broadcast(f"room:{room}", f"{number} {text}")


@pytest.mark.parametrize(
    ("count", "size"),
    [(1000, 10_000), pytest.param(1600, 64_000, marks=pytest.mark.faults)],
    ids=["10 MB", "100 MB"],
)
def test_who_never_reads_holds_up_nobody_and_fills_no_memory(
    servers: list[Server], redis_server: RedisServer, count: int, size: int
) -> None:
    room, server = f"unread-{count}", servers[0]
    with (
        room_of(server, room, receive_buffer=4096),
        room_of(server, room) as reader,
        ThreadPoolExecutor(1) as pool,
    ):
        before = resident_bytes(server)
        publishing = pool.submit(publish, redis_server, room, count, "x" * size)
        for number in range(count):
            message = json.loads(reader.receive_message())
            assert message == f"{number} {'x' * size}"
        publishing.result(SECONDS)
        # The outbound buffer's bound is 1 MiB; the rest is what Python and the kernel keep.
        assert resident_bytes(server) - before < 16 * 1024 * 1024
    too_slow = [event for event in server.events(None) if f"/{room}/" in event["message"]]
    assert ["too slowly" in event["message"] for event in too_slow] == [True]


def test_who_vanishes_costs_the_others_nothing(
    servers: list[Server], redis_server: RedisServer
) -> None:
    room = "vanished"
    with room_of(servers[0], room) as reader, ThreadPoolExecutor(1) as pool:
        others = [room_of(servers[0], room) for _ in range(20)]
        publishing = pool.submit(publish, redis_server, room, 500, "text")
        for number in range(500):
            assert json.loads(reader.receive_message()) == f"{number} text"
            if number == 100:
                for client in others:
                    client.reset()
        publishing.result(SECONDS)


FLOODED = 450  # connections


class Flood:
    """Publishes as fast as the listeners can read, until it is ``ended``."""

    def __init__(self, redis_server: RedisServer, room: str) -> None:
        self.published = 0
        self.ended = threading.Event()
        self._redis_server = redis_server
        self._publisher = RedisPublisher(redis_server.url, DEFAULT_PREFIX, {})
        self._messages = [(f"room:{room}", seal("x" * 100))] * 8

    def run(self) -> None:
        while not self.ended.is_set():
            for _ in range(100):
                self._publisher.publish(self._messages)
            self.published += 100 * len(self._messages)
            while self._unread() > 4_000_000 and not self.ended.wait(0.01):
                pass  # on a busy machine Redis would cut one off
        self._publisher.close()

    def _unread(self) -> int:
        """Bytes that Redis keeps for the listener that reads most slowly."""
        return max(int(each["omem"]) for each in self._redis_server.clients(pubsub=True))


def read_all(clients: list[RawClient], ended: threading.Event) -> int:
    """Read and throw away; how many bytes."""
    count = 0
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client, selectors.EVENT_READ)
        while not ended.is_set():
            for key, _ in selector.select(0.1):
                count += len(os.read(key.fd, 1_000_000))
    return count


@pytest.mark.heavy
def test_a_flood_on_one_topic_holds_up_no_other(
    servers: list[Server], redis_server: RedisServer
) -> None:
    server, flood = servers[0], Flood(redis_server, "flooded")
    before = len(lines_about_redis(server))
    with ExitStack() as stack:
        flooded = [stack.enter_context(room_of(server, "flooded")) for _ in range(FLOODED)]
        quiet = stack.enter_context(room_of(server, "quiet"))
        quiet.patience(SECONDS)
        pool = stack.enter_context(ThreadPoolExecutor(2))
        stack.callback(flood.ended.set)
        reading = pool.submit(read_all, flooded, flood.ended)
        flooding = pool.submit(flood.run)
        publisher = stack.enter_context(Publisher(redis_server.url))
        # Many times what may be read ahead of what was delivered.
        until(lambda: flood.published > 150_000, "a flood", 50)
        for number in range(30):
            publisher.broadcast("room:quiet", number)
            assert json.loads(quiet.receive_message()) == number
        assert not flooding.done()
        flood.ended.set()
        flooding.result(SECONDS)
        assert reading.result(SECONDS) > FLOODED * 1000
        assert lines_about_redis(server)[before:] == []
