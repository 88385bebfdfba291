"""A real server is told to end: what its clients see, and what it does to its last moment."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.request import urlopen

import pytest
import uvicorn
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from django_ws.server.server import Server as DrainingServer
from tests.asgi import application
from tests.support.running import SECONDS, Runws, receive
from tests.support.servers import Kind, Server

SITE = "tests.integration.server.drain_site.settings"
FAST = "django_ws.server.protocol:FastProtocol"
IMPLEMENTATIONS = ("websockets-sansio", "websockets", "wsproto", FAST)
LAST_CHUNK = b"\r\n0\r\n\r\n"  # of a page
KIND = Kind("drain", ("tests.integration.server.drain_site",))


@contextmanager
def running(ws: str = "websockets-sansio", **environment: str) -> Iterator[Server]:
    server = Server(KIND, DJANGO_SETTINGS_MODULE=SITE, DRAIN_WS=ws, **environment)
    try:
        yield server
    finally:
        server.kill()


def client(server: Server | Runws, path: str) -> ClientConnection:
    return connect(
        f"ws://127.0.0.1:{server.port}{path}",
        open_timeout=SECONDS,
        close_timeout=SECONDS,
        compression=None,
        max_size=None,
        proxy=None,
    )


def rest(ws: ClientConnection) -> list[Any]:
    """All that still comes, and the close code."""
    found: list[Any] = []
    with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012  # which one it is, is not known
        while True:
            data = ws.recv(timeout=SECONDS)
            found.append(data.strip('"') if isinstance(data, str) else len(data))
    assert closed.value.rcvd is not None, found
    return [*found, closed.value.rcvd.code]


def noted(server: Server, path: str, event: str) -> bool:
    return server.wait_for(
        path, lambda events: any(each["event"] == event for each in events), SECONDS
    )


def ended(server: Server) -> None:
    server.process.wait(SECONDS)
    server.wait()


def codes(server: Server, path: str) -> list[int]:
    """Those that ``on_close`` has seen."""
    return [event["code"] for event in server.events(path) if event["event"] == "close"]


@pytest.mark.parametrize("ws", IMPLEMENTATIONS)
def test_a_drain(ws: str) -> None:
    """From the signal to the end of the process; one server for all that happens meanwhile."""
    pages: list[bytes] = []

    def ask() -> None:
        with urlopen(f"http://127.0.0.1:{server.port}/slow/", timeout=SECONDS) as page:
            pages.append(page.read())

    with running(ws) as server, ExitStack() as stack:
        quiet, busy, slow, application = (
            stack.enter_context(client(server, path))
            for path in ("/tells/", "/tells/1/", "/floods/", "/application/")
        )
        for each in (quiet, busy):
            assert receive(each) == server.process.pid
        busy.send("1")
        assert noted(server, "/tells/1/", "begun")
        slow.send("200")
        assert noted(server, "/floods/", "flooded")
        asking = threading.Thread(target=ask)
        asking.start()
        waiting = threading.Thread(target=lambda: refusals.append(refused(server, "/connects/")))
        refusals: list[tuple[int, str | None]] = []
        waiting.start()
        assert noted(server, "/connects/", "begun")

        server.terminate()
        assert rest(quiet) == ["last word", 1012]
        assert rest(busy) == ["last word", "done with 1", 1012]
        # That one still has what it has not read, and so the server is still there.
        status, retry_after = refused(server, "/tells/")
        assert status == 503
        assert retry_after is not None
        assert 1 <= int(retry_after) <= 10
        with urlopen(f"http://127.0.0.1:{server.port}/", timeout=SECONDS) as page:
            assert page.read() == b"a page by Django"
        assert rest(slow) == [100_000] * 200 + [1012]
        assert rest(application) == [1012]
        for thread in (asking, waiting):
            thread.join(SECONDS)
        ended(server)
        assert refusals[0][0] == 503
        assert pages == [b"finished by %d" % server.process.pid]
        for path in ("/tells/", "/tells/1/", "/floods/", "/application/"):
            assert codes(server, path) == [1012], path
        assert server.process.returncode == -signal.SIGTERM  # as uvicorn itself ends
        assert not server.new_trouble()


def refused(server: Server | Runws, path: str) -> tuple[int, str | None]:
    with pytest.raises(InvalidStatus) as error, client(server, path):
        pass
    response = error.value.response
    return response.status_code, response.headers.get("Retry-After")


def test_plain_uvicorn_closes_all_before_the_application_hears_of_it() -> None:
    """What docs/drain.md says of it; a release that does more should be made use of."""
    command = ("uvicorn", "tests.integration.server.drain_site.asgi:application", "--port", "0")
    server = Server(Kind("plain", command), DJANGO_SETTINGS_MODULE=SITE, DRAIN_SECONDS="600")
    with ExitStack() as stack:
        stack.callback(server.kill)
        telling = stack.enter_context(client(server, "/tells/"))
        application = stack.enter_context(client(server, "/application/"))
        server.terminate()
        assert rest(telling)[1:] == [1012]  # no last word
        assert rest(application) == [1012]
        ended(server)
        assert codes(server, "/tells/") == codes(server, "/application/") == [1012]


def test_the_closes_are_spread() -> None:
    """They may come later where the machine is slow, but never in a flood."""
    count, seconds = 40, 2.0
    with running(DRAIN_SECONDS=str(seconds)) as server, ExitStack() as stack:
        clients = [stack.enter_context(client(server, "/tells/")) for _ in range(count)]
        server.terminate()
        for each in clients:
            assert rest(each) == [str(server.process.pid), "last word", 1012]
        ended(server)
        times = sorted(event["time"] for event in server.events("/tells/"))
    assert len(times) == count
    most = max(sum(start <= time < start + 0.5 for time in times) for start in times)
    assert most <= 2 * count * 0.5 / seconds


@pytest.mark.parametrize("numbers", [(signal.SIGTERM,) * 2, (signal.SIGINT,) * 2])
def test_a_second_signal_ends_it_at_once(numbers: tuple[int, int]) -> None:
    with running(DRAIN_SECONDS="600") as server, ExitStack() as stack:
        blocking = stack.enter_context(client(server, "/blocks/"))
        telling = [stack.enter_context(client(server, "/tells/")) for _ in range(3)]
        blocking.send("1")
        assert noted(server, "/blocks/", "begun")
        server.process.send_signal(numbers[0])
        assert rest_until(blocking, '"last word"')  # it drains, which would take ten minutes
        server.process.send_signal(numbers[1])
        for each in telling:
            assert 1012 in rest(each)  # uvicorn still tells them
        ended(server)
        assert server.process.returncode == 128 + numbers[1]


def test_the_servers_graceful_time_out_bounds_all() -> None:
    with running(DRAIN_SECONDS="600", DRAIN_GRACEFUL="5") as server, ExitStack() as stack:
        blocking = stack.enter_context(client(server, "/blocks/"))
        telling = stack.enter_context(client(server, "/tells/"))
        blocking.send("1")
        assert noted(server, "/blocks/", "begun")
        server.terminate()
        assert rest(telling)[1:] == ["last word", 1012]
        ended(server)
        log = [event["message"] for event in server.events(None) if event["event"] == "log"]
    assert "2 connections are closed over 0 s, not over WS_DRAIN_SECONDS: there are 5 s" in log[0]
    assert "1 connection has not ended, and is cancelled: /blocks/" in log[-1]


def rest_until(ws: ClientConnection, text: str) -> bool:
    return any(ws.recv(timeout=SECONDS) == text for _ in range(10))


def test_a_restart_of_the_workers_closes_gently_and_refuses_nobody() -> None:
    command = ("-m", "django_ws.server", "tests.integration.server.drain_site.asgi:application")
    environment = {"DJANGO_SETTINGS_MODULE": SITE, "E2E_JOURNAL": "1", "DRAIN_SECONDS": "1"}
    with (
        # More than WS_CLOSE_TIMEOUT and DRAIN_SECONDS.
        Runws("--graceful-timeout", "60", command=command, environment=environment) as server,
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(client(server, "/tells/")) for _ in range(4)]
        [first] = {receive(each) for each in clients}
        for each in clients:
            each.send("1")
        server.signal(signal.SIGHUP)
        for each in clients:
            assert rest(each) == ["last word", "done with 1", 1012]
            # Its worker accepts no more, and another one does.
            again = stack.enter_context(client(server, "/tells/"))
            assert receive(again) != first
        server.wait_for(f"Worker [{first}] has ended (exit code 0)")
        # Where all end, nobody else is left to accept: it does so to its end, and answers 503.
        slow = stack.enter_context(client(server, "/floods/"))
        slow.send("200")
        server.wait_for('"flooded"')
        server.signal(signal.SIGTERM)
        assert rest(again) == ["last word", 1012]
        assert refused(server, "/tells/")[0] == 503
        assert rest(slow) == [100_000] * 200 + [1012]


def ask(plain: socket.socket, path: str = "/", **headers: str) -> None:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    plain.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())


def answered(plain: socket.socket, text: bytes) -> bytes:
    """What comes, until that is in it."""
    answer = b""
    while text not in answer and (data := plain.recv(65536)):
        answer += data
    assert text in answer, answer
    return answer


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_a_restart_lets_go_of_connections_for_pages_and_hears_who_is_silent(http: str) -> None:
    command = ("-m", "django_ws.server", "tests.integration.server.drain_site.asgi:application")
    environment = {"DJANGO_SETTINGS_MODULE": SITE, "E2E_JOURNAL": "1", "DRAIN_SECONDS": "0"}
    options = ("--graceful-timeout", "60", "--timeout-keep-alive", "600", "--http", http)
    with (
        Runws(*options, command=command, environment=environment) as server,
        ExitStack() as stack,
    ):
        [old] = server.ready
        silent, kept, busy = (
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), SECONDS))
            for _ in range(3)
        )
        ask(busy, "/slow/")  # until it drains
        ask(kept)
        # When this is answered, the first has been accepted, too.
        assert b"a page by Django" in answered(kept, LAST_CHUNK)
        server.signal(signal.SIGHUP)
        assert kept.recv(1) == b""  # the next request goes to the other worker
        # The old one waits for what this one may say, and only then drains.
        time.sleep(0.5)
        handshake = {"Connection": "Upgrade", "Upgrade": "websocket"}
        key = "dGhlIHNhbXBsZSBub25jZQ=="
        ask(silent, "/tells/", **handshake, Sec_WebSocket_Version="13", Sec_WebSocket_Key=key)
        told = answered(silent, (1012).to_bytes(2))
        assert told.startswith(b"HTTP/1.1 101 ")
        assert b"%d" % old in told
        assert b"finished by %d" % old in answered(busy, LAST_CHUNK)
        assert busy.recv(1) == b""  # though it was to be kept open
        server.wait_for(f"Worker [{old}] has ended (exit code 0)")


class TestSignals:
    """What they mean, one by one, to a server that does not run."""

    @pytest.fixture
    def server(self, monkeypatch: pytest.MonkeyPatch) -> DrainingServer:
        monkeypatch.setattr("os._exit", sys.exit)
        return DrainingServer(uvicorn.Config(application))

    def test_a_second_one_during_the_start_ends_it_at_once(self, server: DrainingServer) -> None:
        server.handle_exit(signal.SIGTERM, None)
        assert server.should_exit
        with pytest.raises(SystemExit) as ended:
            server.handle_exit(signal.SIGINT, None)
        assert ended.value.code == 128 + signal.SIGINT

    def test_a_third_one_does_not_even_wait_for_the_event_loop(
        self, server: DrainingServer
    ) -> None:
        server.started = True
        for _ in range(2):
            server.handle_exit(signal.SIGTERM, None)
        assert server.force_exit
        with pytest.raises(SystemExit) as ended:
            server.handle_exit(signal.SIGTERM, None)
        assert ended.value.code == 128 + signal.SIGTERM

    def test_the_first_one_after_an_order_is_no_second_one(self, server: DrainingServer) -> None:
        """Service managers signal all processes, and the parent tells its workers, too."""
        server.started = server.should_exit = True
        server.handle_exit(signal.SIGINT, None)
        assert server.should_exit
        assert not server.force_exit
