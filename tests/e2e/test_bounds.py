"""What a client may not do too much of, on a real server."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from websockets.exceptions import ConnectionClosed

from tests.support.servers import DEFAULT, KINDS, Server
from tests.support.visit import Visit


def test_more_messages_than_the_rate_allows_close_with_4429(default_visit: Visit) -> None:
    with default_visit.connect("five-an-hour/") as client:
        for number in range(6):
            client.send(str(number))
        assert [client.recv(5) for _ in range(5)] == list("01234")
        with pytest.raises(ConnectionClosed):
            client.recv(5)
        assert (client.close_code, client.close_reason) == (4429, "too many messages")
    assert default_visit.closed_once()["code"] == 4429
    default_visit.wait_for_log("WARNING", "rate_limit")


def test_a_client_that_only_answers_pings_is_idle(default_visit: Visit) -> None:
    with default_visit.connect("soon-idle/") as client:
        client.send("1")
        assert client.recv(5) == "1"
        assert client.ping().wait(5)
        with pytest.raises(ConnectionClosed):
            client.recv(5)
        assert (client.close_code, client.close_reason) == (4408, "no message for 2 s")
    assert default_visit.closed_once()["code"] == 4408


def test_a_connection_joins_at_most_ws_max_topics(default_visit: Visit) -> None:
    with default_visit.connect("joins-many/") as client:
        client.send("100")
        assert json.loads(client.recv(5)) == {"joined": 100}
        client.send("101")
        assert json.loads(client.recv(5)) == {"joined": 100, "limit": 100}


@pytest.mark.parametrize(
    ("headers", "shown"),
    [
        ({}, {"address": "127.0.0.1", "secure": False}),
        # uvicorn itself believes these from 127.0.0.1: its own --forwarded-allow-ips.
        (
            {"X-Forwarded-For": "1.1.1.1, 203.0.113.7", "X-Forwarded-Proto": "wss"},
            {"address": "203.0.113.7", "secure": True},
        ),
    ],
    ids=["no proxy", "uvicorn's own trust"],
)
def test_uvicorn_tells_the_client_of_a_proxy_on_the_same_machine(
    default_visit: Visit, headers: dict[str, str], shown: dict[str, object]
) -> None:
    with default_visit.connect("shows-client/", additional_headers=headers) as client:
        assert json.loads(client.recv(5)) == shown


@pytest.fixture
def small() -> Iterator[Visit]:
    """A server of its own that takes two connections."""
    server = Server(KINDS[DEFAULT], E2E_MAX_CONNECTIONS="2")
    try:
        visit = Visit(server)
        yield visit
        visit.check()
    finally:
        server.stop()


@pytest.fixture
def half_open(small: Visit) -> Iterator[None]:
    """Clients that never finish their handshake."""
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(half_a_handshake(small.server.port))
        yield


@pytest.mark.usefixtures("half_open")  # these count nowhere
def test_a_full_process_answers_503_and_takes_the_next_when_one_has_gone(small: Visit) -> None:
    with small.connect("echo/") as first, small.connect("echo/"):
        for _ in range(3):
            response = small.refused("echo/")
            assert response.status_code == 503
            assert 1 <= int(response.headers["Retry-After"]) <= 10
            assert response.body == b"Service Unavailable"
        first.send("1")
        assert first.recv(5) == "1"
    small.ended()
    for _ in range(3):
        with small.connect("echo/") as client:
            client.send("2")
            assert client.recv(5) == "2"
        small.ended()
    small.wait_for_log("WARNING", "refused with 503: this process has as many connections")


def half_a_handshake(port: int) -> socket.socket:
    """A client that begins a request and never finishes it."""
    connection = socket.create_connection(("127.0.0.1", port), 5)
    connection.sendall(b"GET /ws/ HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n")
    return connection
