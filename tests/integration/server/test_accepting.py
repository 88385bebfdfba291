"""How a worker accepts connections: its share of them, all that it can serve, and none is lost."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import uvloop

from django_ws.server.http import waiting
from django_ws.server.http.limits import Limits
from django_ws.server.http.waiting import Waiting
from django_ws.server.workers import accepting
from django_ws.server.workers.accepting import AT_ONCE, BEGUN_AT_ONCE, LEAD, Accepting
from django_ws.server.workers.shared_table import Row, Table
from tests.integration.server.test_runws_lives import certificate  # noqa: F401  (a fixture)
from tests.support.asgi_peer import until

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
somebodys: contextvars.ContextVar[str] = contextvars.ContextVar("somebodys", default="nobody")


class Greets(asyncio.Protocol):
    """Says hello, and in which context it began; ``alive`` are those that have not ended."""

    alive: set[Greets] = set()

    def connection_made(self, transport: Any) -> None:
        self.alive.add(self)
        transport.write(somebodys.get().encode())
        somebodys.set("the last visitor")

    def connection_lost(self, error: Exception | None) -> None:
        self.alive.discard(self)


@pytest.fixture(autouse=True)
def nobody_is_there() -> None:
    Greets.alive.clear()


@pytest.fixture
def rows() -> tuple[Row, Row]:
    table = Table()
    return table.take(), table.take()


def heard(client: socket.socket) -> bytes:
    client.settimeout(30)
    return client.recv(100)


def connect(listener: socket.socket) -> socket.socket:
    client = socket.socket(listener.family)
    client.connect(listener.getsockname())
    return client


def listeners(folder: Path) -> Iterator[socket.socket]:
    yield socket.create_server(("127.0.0.1", 0))
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(folder / "socket"))
    unix.listen(10)
    yield unix
    try:
        yield socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:  # this machine has no IPv6
        return


@pytest.mark.parametrize("loop", LOOPS)
def test_every_kind_of_socket_is_served(loop: str, tmp_path: Path, rows: tuple[Row, Row]) -> None:
    async def main() -> None:
        sockets = list(listeners(tmp_path))
        accepting = Accepting(sockets, Greets, Greets.alive, rows[0])
        with ExitStack() as room:
            for listener in sockets:
                for _ in range(2):
                    client = room.enter_context(connect(listener))
                    # Whoever came before has changed a context, but not that of this one.
                    assert await asyncio.to_thread(heard, client) == b"nobody"
            assert accepting.accepted == 2 * len(sockets)
            await until(lambda: accepting.count == 2 * len(sockets))
        await until(lambda: accepting.count == 0)
        accepting.close()
        for listener in sockets:
            listener.close()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


@pytest.mark.parametrize("loop", LOOPS)
def test_tls_is_served_and_who_does_not_speak_it_harms_nobody(
    loop: str,
    certificate: Path,  # noqa: F811
    rows: tuple[Row, Row],
) -> None:
    async def main() -> None:
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(certificate, password="open sesame")
        client = ssl.create_default_context(cafile=certificate)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            accepting = Accepting([listener], Greets, Greets.alive, rows[0], server)

            def speak() -> bytes:
                with connect(listener) as plain:
                    plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
                    plain.settimeout(30)
                    while plain.recv(100):
                        pass
                with client.wrap_socket(connect(listener), server_hostname="127.0.0.1") as secure:
                    return heard(secure)

            assert await asyncio.to_thread(speak) == b"nobody"
            await until(lambda: accepting.count == 0)
            accepting.close()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


BEGINS = pytest.mark.parametrize("begin", [b"", b"\x16\x03\x01\x00\xff\x01"])


@pytest.mark.parametrize("loop", LOOPS)
@BEGINS
def test_the_oldest_that_do_not_finish_tls_make_room_for_others(
    loop: str,
    begin: bytes,
    certificate: Path,  # noqa: F811
    rows: tuple[Row, Row],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(waiting, "YOUNG_SECONDS", 0.0)

    async def main() -> None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate, password="open sesame")
        trusting = ssl.create_default_context(cafile=certificate)
        limits = Limits(max_waiting=20, header_timeout=60.0)
        of_server = Waiting(asyncio.get_running_loop(), limits)
        with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as room:
            accepting = Accepting(
                [listener], Greets, Greets.alive, rows[0], tls, 60.0, waiting=of_server
            )
            silent = [room.enter_context(connect(listener)) for _ in range(50)]
            for client in silent:
                client.sendall(begin)
            for client in silent[:30]:
                assert await asyncio.to_thread(heard, client) == b""
            await until(lambda: accepting.count == len(of_server) == 20)

            def speak() -> bytes:
                with trusting.wrap_socket(connect(listener), server_hostname="127.0.0.1") as secure:
                    return heard(secure)

            assert await asyncio.to_thread(speak) == b"nobody"
            silent[-1].setblocking(False)
            with pytest.raises(BlockingIOError):  # it is still there
                silent[-1].recv(1)
            accepting.close()
        await until(lambda: accepting.count == len(of_server) == 0)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())
    assert caplog.messages[0].startswith("More than 20 connections wait for their client's request")


@pytest.mark.parametrize("loop", LOOPS)
def test_who_does_not_finish_tls_in_time_is_ended(loop: str, rows: tuple[Row, Row]) -> None:
    async def main() -> None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        of_server = Waiting(asyncio.get_running_loop(), Limits(header_timeout=0.2))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            accepting = Accepting([listener], Greets, Greets.alive, rows[0], tls, 60.0, of_server)
            with connect(listener) as client:
                assert await asyncio.to_thread(heard, client) == b""
            await until(lambda: accepting.count == len(of_server) == 0)
            accepting.close()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


@pytest.mark.parametrize("loop", LOOPS)
@BEGINS
def test_a_handshake_of_tls_that_never_ends_is_ended(
    loop: str, begin: bytes, rows: tuple[Row, Row]
) -> None:
    async def main() -> None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            accepting = Accepting([listener], Greets, Greets.alive, rows[0], tls, 0.2)

            def speak() -> bytes:
                with connect(listener) as client:
                    client.sendall(begin)
                    client.settimeout(30)
                    return client.recv(100)

            assert await asyncio.to_thread(speak) == b""
            await until(lambda: accepting.count == 0)
            accepting.close()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


@pytest.fixture
async def listener() -> AsyncIterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        yield listening


async def test_who_is_ahead_leaves_new_connections_to_the_others(
    listener: socket.socket, rows: tuple[Row, Row]
) -> None:
    mine, others = rows
    others.show(0, accepts=True)
    accepting = Accepting([listener], Greets, Greets.alive, mine)
    with ExitStack() as room:
        for _ in range(20):
            room.enter_context(connect(listener))

        def others_stay() -> bool:
            others.show(0, accepts=True)  # it goes on turning
            return len(Greets.alive) == LEAD

        await until(others_stay)
        for _ in range(20):
            others.show(0, accepts=True)
            await asyncio.sleep(0.002)
        assert accepting.count == LEAD
        others.show(6, accepts=True)
        await until(lambda: shown(others, 6) and accepting.count == 6 + LEAD)
        # It accepts no more, or stands still: then there is nobody else.
        others.show(6, accepts=False)
        await until(lambda: accepting.count == 20)
        accepting.close()


def shown(row: Row, connections: int) -> bool:
    row.show(connections, accepts=True)
    return True


async def test_who_cannot_serve_leaves_new_connections_to_those_who_can(
    listener: socket.socket, rows: tuple[Row, Row]
) -> None:
    mine, others = rows
    others.show(100, accepts=True)
    accepting = Accepting([listener], Greets, Greets.alive, mine)
    accepting.can_serve = False
    accepting.show()
    assert others.fewest_elsewhere() is None  # it does not count
    with connect(listener) as client:

        def others_stay() -> bool:
            others.show(100, accepts=True)
            return accepting._pause is not None

        await until(others_stay)
        assert accepting.accepted == 0
        others.show(100, accepts=False)  # nobody else is left
        assert await asyncio.to_thread(heard, client) == b"nobody"
    accepting.close()


async def test_many_begin_a_few_at_a_time(listener: socket.socket, rows: tuple[Row, Row]) -> None:
    began: list[int] = []
    turn = 0

    class Counts(Greets):
        def __init__(self) -> None:
            began.append(turn)

    accepting = Accepting([listener], Counts, Greets.alive, rows[0])
    with ExitStack() as room:
        for _ in range(50):
            room.enter_context(connect(listener))
        while len(began) < 50:
            turn += 1
            await asyncio.sleep(0)
        assert max(began.count(each) for each in range(turn + 1)) <= BEGUN_AT_ONCE
        assert accepting.accepted == 50 < AT_ONCE
        accepting.close()


async def test_what_was_accepted_is_served_after_the_end(
    listener: socket.socket, rows: tuple[Row, Row]
) -> None:
    accepting = Accepting([listener], Greets, Greets.alive, rows[0])
    with ExitStack() as room:
        for _ in range(30):
            room.enter_context(connect(listener))
        while not accepting.accepted:  # noqa: ASYNC110  # no event
            await asyncio.sleep(0)
        assert accepting.beginning == 30
        accepting.close()
        accepting.close()  # again is no harm
        await accepting.wait_closed()
        late = room.enter_context(connect(listener))
        await until(lambda: len(Greets.alive) == 30 and not accepting.beginning)
        late.setblocking(False)
        with pytest.raises(BlockingIOError):
            late.recv(100)  # waits in the queue, for another process


async def test_the_end_comes_while_others_are_let_pass(
    listener: socket.socket, rows: tuple[Row, Row]
) -> None:
    mine, others = rows
    others.show(0, accepts=True)
    accepting = Accepting([listener], Greets, set(range(50)), mine)
    with connect(listener):
        await until(lambda: shown(others, 0) and accepting._pause)
        accepting.close()
        for _ in range(20):
            others.show(50, accepts=True)
            await asyncio.sleep(0.002)
        assert accepting.accepted == 0


class Failing:
    """A listening socket whose ``accept`` raises some errors first."""

    def __init__(self, listener: socket.socket, *errors: OSError) -> None:
        self._listener = listener
        self._errors = list(errors)

    def fileno(self) -> int:
        return self._listener.fileno()

    def setblocking(self, blocking: bool) -> None:
        self._listener.setblocking(blocking)

    def accept(self) -> Any:
        if self._errors:
            raise self._errors.pop(0)
        return self._listener.accept()


async def test_who_has_gone_meanwhile_is_passed_over(
    listener: socket.socket, rows: tuple[Row, Row]
) -> None:
    failing: Any = Failing(listener, ConnectionAbortedError(), ConnectionAbortedError())
    accepting = Accepting([failing], Greets, Greets.alive, rows[0])
    with connect(listener):
        await until(lambda: accepting.accepted == 1)
        accepting.close()


async def test_without_descriptors_it_tries_again_and_leaves_them_to_others(
    listener: socket.socket,
    rows: tuple[Row, Row],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(accepting, "NO_ROOM_SECONDS", 0.2)
    mine, others = rows
    full = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    failing: Any = Failing(listener, full, full)
    taking = Accepting([failing], Greets, Greets.alive, mine)
    with connect(listener):
        taking.show()
        assert others.fewest_elsewhere() == 0
        await until(lambda: caplog.records)
        taking.show()
        assert others.fewest_elsewhere() is None
        await until(lambda: taking.accepted == 1)
        taking.show()
        assert others.fewest_elsewhere() == 1
        taking.close()
    [record] = caplog.records  # of two failures
    assert record.levelname == "ERROR"
    assert "No connection can be accepted: Too many open files" in record.message
