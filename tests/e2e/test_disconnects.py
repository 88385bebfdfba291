"""Connections that end in every way there is: ``on_close`` exactly once, nothing left behind."""

from __future__ import annotations

import json
import struct
import time

import pytest
from websockets.exceptions import ConnectionClosed

from tests.e2e.conftest import Start
from tests.support.raw import CLOSE, TEXT
from tests.support.servers import DEFAULT, KINDS, Kind
from tests.support.visit import Visit

# Clients that vanish


def test_a_client_that_vanishes_is_told_from_one_that_closes(visit: Visit) -> None:
    client = visit.raw("echo/")
    assert client.status() == 101
    client.reset()
    closed = visit.closed_once()
    assert (closed["code"], closed["reason"]) == (visit.kind.vanished, "")


def test_a_client_that_ends_tcp_without_a_close_frame_has_vanished(visit: Visit) -> None:
    with visit.raw("echo/") as client:
        assert client.status() == 101
    assert visit.closed_once()["code"] == visit.kind.vanished


def test_a_client_that_vanishes_in_on_connect_was_never_there(visit: Visit) -> None:
    client = visit.raw("lingers/on_connect/")
    visit.wait_for("in the hook")
    client.reset()
    if visit.kind.notices_early_leaving:
        visit.wait_for("noticed")
    else:  # on_connect has WS_CONNECT_TIMEOUT all the same
        visit.wait_for_log("WARNING", "on_connect took longer than WS_CONNECT_TIMEOUT")
    assert visit.ended() == []


@pytest.mark.parametrize("hook", ["on_open", "on_message"])
def test_a_client_that_vanishes_in_a_hook_is_noticed_there(visit: Visit, hook: str) -> None:
    client = visit.raw(f"lingers/{hook}/")
    assert client.status() == 101
    client.send_frame(TEXT, b"1")
    visit.wait_for("in the hook")
    vanished = time.monotonic()
    client.reset()
    assert visit.wait_for("noticed")["time"] - vanished < 1
    assert visit.closed_once()["code"] == visit.kind.vanished
    assert visit.events("task cancelled")[0]["message"] == "task-websocket-closed"


def test_a_client_that_vanishes_while_send_is_blocked_ends_the_send(visit: Visit) -> None:
    client = visit.raw("blocks-in-send/", receive_buffer=4096)
    assert client.status() == 101
    client.send_frame(TEXT, b"1")
    if visit.kind.has_backpressure:
        visit.wait_for("blocked")
    client.reset()
    visit.wait_for("raised")
    assert visit.closed_once()["code"] == visit.kind.vanished


def test_a_client_that_vanishes_before_the_answer_to_its_handshake(visit: Visit) -> None:
    for _ in range(20):
        visit.raw("echo/").reset()
    with visit.connect("echo/") as client:
        client.send("1")
        assert client.recv(5) == "1"
    ended = len(visit.ended())
    assert ended <= len(visit.events("began"))  # told of before, and read after


# Clients that close


@pytest.mark.parametrize("path", ["lingers/on_message/", "lingers-in-thread/"])
def test_a_closing_client_is_noticed_while_a_hook_runs(visit: Visit, path: str) -> None:
    with visit.raw(path) as client:
        assert client.status() == 101
        client.send_frame(TEXT, b"1")
        visit.wait_for("in the hook")
        closing = time.monotonic()
        client.send_frame(CLOSE, struct.pack("!H", 4123))
        client.read_to_end()
    assert visit.wait_for("noticed")["time"] - closing < 1
    closed = visit.closed_once()
    assert closed["code"] == (4123 if visit.kind.tells_client_code else 1006)


def test_messages_before_the_close_are_handled_after_it(visit: Visit) -> None:
    with visit.raw("lingers/on_message/") as client:
        assert client.status() == 101
        for number in range(10):
            client.send_frame(TEXT, str(number).encode())
        client.send_frame(CLOSE, struct.pack("!H", 1000))
        client.read_to_end()
    visit.wait_for("noticed")
    visit.closed_once()
    assert [event["message"] for event in visit.events("message")] == list(range(10))


def test_a_hook_that_does_not_end_is_cancelled_in_time(visit: Visit) -> None:
    with visit.connect("forever/") as client:
        client.send("1")
        visit.wait_for("in the hook")
        client.close(1000)
    hook_ended = visit.wait_for("hook ended")["time"]
    assert visit.closed_once()["time"] - hook_ended < 1
    assert "on_message" in visit.wait_for_log("WARNING", "WS_CLOSE_TIMEOUT")


def test_a_hook_that_swallows_its_cancellation_is_left_behind(visit: Visit) -> None:
    with visit.connect("swallows/") as client:
        client.send("1")
        visit.wait_for("in the hook")
        client.close(1000)
    visit.wait_for("swallowed")
    visit.wait_for("closed")
    visit.wait_for_log("ERROR", "ignores its cancellation")
    assert not visit.events("ended")
    with visit.connect("release/") as client:
        client.close(1000)
    assert len(visit.ended()) == 2  # that of the other connection, and the one
    visit.expect_errors("ignores its cancellation")


def test_a_client_that_does_not_answer_the_close_is_let_go(visit: Visit) -> None:
    with visit.raw("closes/") as client:
        assert client.status() == 101
        client.send_frame(TEXT, json.dumps({"code": 4000, "reason": ""}).encode())
        assert client.receive_close() == 4000
        assert visit.closed_once()["code"] == 4000


# Servers that end


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_server_that_ends_closes_every_connection_once(start: Start, kind: Kind) -> None:
    server = start(kind)
    visits = [Visit(server) for _ in range(3)]
    paths = ["echo/", "lingers/on_message/", "forever/"]
    clients = [visit.raw(path) for visit, path in zip(visits, paths, strict=True)]
    for visit, client in zip(visits, clients, strict=True):
        assert client.status() == 101
        client.send_frame(TEXT, b"1")
        if visit is not visits[0]:
            visit.wait_for("in the hook")
    server.terminate()
    if not kind.ends_before_clients:
        for client in clients:
            client.reset()
    assert server.wait() < 12
    for visit, client in zip(visits, clients, strict=True):
        found = (len(visit.events("closed")), len(visit.events("ended")))
        # The process of a server that does not wait for applications may be gone at any moment.
        assert found == (1, 1) or (not kind.ends_applications and found in {(0, 0), (1, 0)})
        if kind.ends_before_clients:
            with client:
                client.read_to_end()


def test_a_client_is_told_that_the_server_ends(start: Start) -> None:
    server = start(KINDS[DEFAULT])
    visit = Visit(server)
    with visit.connect("echo/") as client:
        client.send("1")
        assert client.recv(5) == "1"
        server.terminate()
        with pytest.raises(ConnectionClosed):
            client.recv(5)
        assert client.close_code == 1012
    server.wait()
    assert visit.closed_once()["code"] == 1012
