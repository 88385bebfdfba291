"""One `runws` with two workers: what it serves, and what becomes of its processes."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, unix_connect

from django_ws.server.garbage import THRESHOLDS
from tests.support.redis_server import until
from tests.support.running import SECONDS, Runws, Stopped, fetch, is_gone, receive


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runws") / "socket"


@pytest.fixture(scope="module")
def running(path: Path) -> Iterator[Runws]:
    with Runws("-b", "127.0.0.1:0", "-b", f"unix:{path}", workers=2) as server:
        yield server
    assert not path.exists()
    assert all(map(is_gone, server.children))


@pytest.fixture
def server(running: Runws) -> Runws:
    """It has its two workers, whatever the test before did."""
    running.wait_for_workers()
    return running


def members(server: Runws, room: ExitStack) -> list[ClientConnection]:
    """A socket in each of the two workers."""
    first = room.enter_context(server.connect())
    pid = receive(first)["pid"]
    with Stopped(pid):
        second = room.enter_context(server.connect())
        assert receive(second)["pid"] != pid
    return [first, second]


def test_tcp_and_unix_sockets_are_served(server: Runws, path: Path) -> None:
    assert server.get()["pid"] in server.ready
    with socket.socket(socket.AF_UNIX) as plain:
        plain.settimeout(SECONDS)
        plain.connect(str(path))
        assert fetch(plain)["pid"] in server.ready
    with unix_connect(str(path), "ws://localhost/room/", open_timeout=SECONDS) as client:
        assert receive(client)["pid"] in server.ready


def test_the_workers_share_the_port(server: Runws) -> None:
    one = server.get()["pid"]
    with Stopped(one):
        other = server.get()["pid"]
    assert {one, other} == set(server.ready)


def test_broadcasts_reach_all_workers(server: Runws) -> None:
    with ExitStack() as room:
        clients = members(server, room)
        for number, client in enumerate(clients):
            client.send(str(number))
            assert [receive(each) for each in clients] == [number, number]


def test_a_broker_that_dies_is_replaced(server: Runws) -> None:
    with ExitStack() as room:
        clients = members(server, room)
        *_, broker = server.found(r"Started the broker for broadcasts \[(\d+)\]")
        os.kill(broker, signal.SIGKILL)
        server.wait_for(f"The broker for broadcasts [{broker}] died (SIGKILL)")

        def is_heard(speaker: int, listener: int) -> bool:
            text = f'"by {speaker}"'
            clients[speaker].send(text)
            try:
                while clients[listener].recv(timeout=0.5) != text:
                    pass
            except TimeoutError:
                return False
            return True

        for pair in ((0, 1), (1, 0)):
            until(partial(is_heard, *pair), "a broadcast through the new broker", SECONDS)


def test_a_worker_that_is_killed_is_replaced(server: Runws) -> None:
    with server.connect() as client:
        dead = receive(client)["pid"]
        os.kill(dead, signal.SIGKILL)
        with pytest.raises(ConnectionClosed):
            receive(client)
    server.wait_for(f"Worker [{dead}] died (SIGKILL), a new one is started")
    assert dead not in server.wait_for_workers()


def test_a_worker_that_is_told_to_stop_is_replaced_at_once(server: Runws) -> None:
    with server.connect() as client:
        old = receive(client)["pid"]
        os.kill(old, signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            receive(client)
    server.wait_for(f"Worker [{old}] has ended")
    assert old not in server.wait_for_workers()


def test_restart_replaces_one_worker_after_the_other_and_refuses_nobody(server: Runws) -> None:
    old = server.ready
    begin = len(server.output.lines)
    stop = threading.Event()
    answers: list[Any] = []

    def ask() -> None:
        while not stop.is_set():
            try:
                answers.append(server.get()["pid"])
            except (OSError, AssertionError) as error:  # refused, cut off, not answered
                answers.append(repr(error))
            time.sleep(0.01)  # the workers need the cores as well

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    try:
        server.signal(signal.SIGHUP)
        server.wait_for(*(f"Worker [{pid}] has ended" for pid in old))
        new = server.wait_for_workers()
    finally:
        stop.set()
        for asker in askers:
            asker.join()

    assert not set(new) & set(old)
    assert [answer for answer in answers if isinstance(answer, str)] == []
    # A new one was ready before an old one was told to end, and one old one ended at a time.
    steps = [
        "ready" if "is ready" in line else "ended"
        for line in server.output.lines[begin:]
        if "is ready" in line or "has ended" in line
    ]
    assert steps == ["ready", "ended", "ready", "ended"]


def test_workers_are_added_and_removed(server: Runws) -> None:
    two = server.ready
    server.signal(signal.SIGTTIN)
    three = server.wait_for_workers(3)
    assert set(two) < set(three)
    server.signal(signal.SIGTTOU)
    assert server.wait_for_workers(2) == three[1:]  # the oldest left


def test_what_other_servers_do_on_a_signal_does_no_harm(server: Runws) -> None:
    before = server.ready
    for pid in (server.process.pid, *before):
        os.kill(pid, signal.SIGUSR1)
        os.kill(pid, signal.SIGUSR2)
    server.wait_for("SIGUSR1 means nothing here", "SIGUSR2 means nothing here")
    assert server.get()["pid"] in before
    assert server.ready == before


def test_no_query_is_shown(server: Runws) -> None:
    server.get("/?token=secret-of-page")
    with server.connect("/room/?token=secret-of-socket") as client:
        receive(client)
    with pytest.raises(InvalidStatus, match="404"):
        server.connect("/nowhere/?token=secret-of-refused")
    server.wait_for(
        '"GET / HTTP/1.1" 200', '"WebSocket /room/" [accepted]', '"WebSocket /nowhere/"'
    )
    assert "secret-of" not in server.printed


def test_the_lines_of_sockets_come_in_pairs(server: Runws) -> None:
    begin = len(server.output.lines)
    with server.connect("/room/?way=gone") as client:
        receive(client)
        client.socket.shutdown(socket.SHUT_RDWR)
        server.wait_for('"WebSocket /room/" [closed with 1006]')
    with server.connect("/room/") as client:
        receive(client)
        client.close(4321)
    server.wait_for('"WebSocket /room/" [closed with 4321]')
    with pytest.raises(InvalidStatus, match="404"):
        server.connect("/nowhere/")
    server.wait_for('"WebSocket /nowhere/" 404')
    lines = [line for line in server.output.lines[begin:] if '"WebSocket ' in line]
    assert [line.partition('" ')[2] for line in lines] == [
        "[accepted]",
        "[closed with 1006]",
        "[accepted]",
        "[closed with 4321]",
        "404",
    ]
    assert not [line for line in server.output.lines[begin:] if "connection " in line]


def test_collection_is_tuned(server: Runws) -> None:
    answer = server.get()
    assert answer["frozen"] > 10_000
    assert answer["thresholds"] == [*THRESHOLDS]
