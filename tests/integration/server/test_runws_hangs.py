"""A worker whose event loop stands still is replaced; one that is slow, or stopped, is not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, cast

import pytest
from websockets.exceptions import ConnectionClosed

from django_ws.server.options import Options
from django_ws.server.workers.heartbeat import LOOK_SECONDS, Heartbeat
from django_ws.server.workers.main_thread import SIGNAL, Stack, tell_on_signal
from django_ws.server.workers.shared_table import Row, Table
from django_ws.server.workers.supervisor import Supervisor
from tests.support.redis_server import until
from tests.support.running import SECONDS, Runws, Stopped, is_gone, receive, state


@pytest.mark.parametrize(("message", "line"), [("0", "time.sleep"), ('"regex"', "re.match")])
def test_a_worker_whose_event_loop_hangs_is_replaced(message: str, line: str) -> None:
    with Runws("--hang-timeout", "2") as server:
        with server.connect("/blocks/") as client:
            hanging = receive(client)["pid"]
            client.send(message)
            with pytest.raises(ConnectionClosed):
                receive(client)
        server.wait_for(f"Worker [{hanging}]: its event loop has stood still for")
        server.wait_for(f"Worker [{hanging}] died (SIGKILL), a new one is started")
        assert server.get()["pid"] != hanging
        assert is_gone(hanging)
    assert "ws_urls.py" in server.printed
    assert "in on_message" in server.printed
    if message == "0":  # nobody else had a turn
        assert "The event loop has stood still for 1." in server.printed
        assert f"ws_urls.py, line {line_of(line)}, in Blocks.on_message" in server.printed


def line_of(text: str) -> int:
    """The last line of the site's handlers with this text, in the handler that blocks."""
    lines = (Path(__file__).parent / "runws_site" / "ws_urls.py").read_text().splitlines()
    handler = lines.index("class Blocks(WebSocketHandler):")
    end = lines.index("class Sleeps(Blocks):")
    return max(number for number in range(handler, end) if text in lines[number]) + 1


def test_a_worker_that_is_slow_or_stopped_is_left_alone() -> None:
    with Runws("--hang-timeout", "5") as server, server.connect("/blocks/") as client:
        pid = receive(client)["pid"]
        for _ in range(4):  # longer than the bound in all, but not at once
            client.send("1.5")
            assert receive(client) == "awake"
        with Stopped(pid):
            time.sleep(8)  # the time in which it would be replaced, if it hung
        client.send("0.1")
        assert receive(client) == "awake"
        assert server.ready == [pid]


class TestTurns:
    @pytest.fixture
    def row(self) -> Row:
        return Table().take()

    def test_that_do_not_come_are_counted(self, row: Row) -> None:
        heartbeat, pid = Heartbeat(row), os.getpid()
        row.show(0, accepts=True)
        assert heartbeat.look(100.0, pid) == 0
        assert heartbeat.look(101.0, pid) == 1
        assert heartbeat.look(102.5, pid) == 2.5
        row.show(0, accepts=True)
        assert heartbeat.look(103.5, pid) == 0
        assert heartbeat.look(104.5, pid) == 1

    def test_are_not_missed_while_nobody_looked(self, row: Row) -> None:
        """The machine slept, for example."""
        heartbeat, pid = Heartbeat(row), os.getpid()
        row.show(0, accepts=True)
        heartbeat.look(100.0, pid)
        assert heartbeat.look(5000.0, pid) == 2 * LOOK_SECONDS

    def test_are_not_missed_while_the_process_is_stopped(self, row: Row) -> None:
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
            heartbeat = Heartbeat(row)
            row.show(0, accepts=True)
            heartbeat.look(100.0, process.pid)
            with Stopped(process.pid):
                assert heartbeat.look(101.0, process.pid) == 0
            until(lambda: state(process.pid) != "T", "its going on", SECONDS)
            assert heartbeat.look(102.0, process.pid) == 1
            process.kill()

    def test_are_not_missed_where_the_process_has_gone(self, row: Row) -> None:
        heartbeat = Heartbeat(row)
        row.show(0, accepts=True)
        heartbeat.look(100.0, 0)
        assert heartbeat.look(101.0, 0) == 1


class FakeChild:
    """Is alive, and is killed instead of ending."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.began = 0.0
        self.is_alive = True
        self.process: Any = self
        self.killed = 0

    def reports(self) -> list[Any]:
        return []

    def kill(self) -> None:
        self.killed += 1


@pytest.fixture
def pipes() -> Iterator[tuple[Any, Any]]:
    mine, theirs = Pipe(duplex=False)
    yield mine, theirs
    mine.close()
    theirs.close()


class Watched:
    """A supervisor with one worker that is ready, on a clock of its own; it kills after 3 s."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pipe: Any) -> None:
        from django_ws.server.workers.supervisor import Worker

        self.now = 1000.0
        clock = "django_ws.server.workers.supervisor.time.monotonic"
        monkeypatch.setattr(clock, lambda: self.now)
        self.asked: list[int] = []
        monkeypatch.setattr(Stack, "ask", lambda stack, pid: self.asked.append(pid))
        self.supervisor = Supervisor("a:b", Options(hang_timeout=3), [])
        self.row = self.supervisor._table.take()
        self.child = FakeChild()
        worker = Worker(cast(Any, self.child), 0, self.row, Stack(pipe))
        worker.is_ready, worker.kill_at = True, float("inf")
        self.supervisor.workers.append(worker)
        self.row.show(0, accepts=True)

    def look(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1
            self.supervisor._look()


class TestSupervisor:
    @pytest.fixture
    def watched(self, monkeypatch: pytest.MonkeyPatch, pipes: tuple[Any, Any]) -> Iterator[Watched]:
        watched = Watched(monkeypatch, pipes[0])
        yield watched
        watched.supervisor.workers.clear()

    def test_lets_a_worker_go_on_that_does_so_after_all(self, watched: Watched) -> None:
        watched.look(4)
        assert watched.asked == [watched.child.pid]
        watched.row.show(0, accepts=True)
        watched.look(4)
        assert watched.child.killed == 0
        watched.look(5)
        assert watched.child.killed == 1
        assert watched.asked == [watched.child.pid] * 2

    def test_leaves_a_worker_alone_that_is_stopped_before_it_tells(self, watched: Watched) -> None:
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
            watched.child.pid = process.pid
            watched.look(4)
            assert watched.asked == [process.pid]
            with Stopped(process.pid):
                watched.look(10)
                assert watched.child.killed == 0
            until(lambda: state(process.pid) != "T", "its going on", SECONDS)
            watched.look(1)
            assert watched.child.killed == 1
            process.kill()

    def test_looks_at_nobody_where_it_shall_not(self) -> None:
        assert Supervisor("a:b", Options(hang_timeout=0), [])._seconds_to_look() is None
        assert Supervisor("a:b", Options(), [])._seconds_to_look() is not None


def test_a_process_tells_on_what_it_stands(pipes: tuple[Any, Any]) -> None:
    mine, theirs = pipes
    stack = Stack(mine)
    tell_on_signal(theirs)
    try:
        assert stack.read() == ""
        stack.ask(os.getpid())
        assert "test_a_process_tells_on_what_it_stands" in stack.read()
    finally:
        import faulthandler

        faulthandler.unregister(SIGNAL)


def test_nobody_reads_what_it_tells(pipes: tuple[Any, Any]) -> None:
    """A pipe that is full does not block the process."""
    import faulthandler

    tell_on_signal(pipes[1])
    try:
        for _ in range(1000):
            os.kill(os.getpid(), SIGNAL)
    finally:
        faulthandler.unregister(SIGNAL)
