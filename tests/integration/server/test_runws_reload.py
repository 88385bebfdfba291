"""`runws --reload`: the worker follows the files, and otherwise lives as without it."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from uvicorn.supervisors.statreload import StatReload
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from django_ws.server.workers import file_changes
from django_ws.server.workers.file_changes import Changes
from tests.integration.server.test_runws_lives import BARE
from tests.support.redis_server import until
from tests.support.running import SECONDS, Runws, is_gone, state

COMMAND = ("-m", "django_ws.server", "bare:application", "--reload")
# No byte code: a file of the same size and the same second would not be compiled anew.
ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "1"}
LIFESPAN = """
async def application(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
"""
LINGERS = """
import asyncio, time

def sleep():
    print("asleep", flush=True)
    time.sleep(1000)

async def application(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("pages alone")
    await asyncio.to_thread(sleep)
"""


class Site:
    """A server, and the file that it serves."""

    def __init__(self, file: Path, server: Runws) -> None:
        self.file = file
        self.server = server

    def write(self, text: str) -> None:
        """Change the file, until that is noticed: a finder must have seen it before."""
        begin = len(self.server.output.lines)
        self.file.write_text(text)

        def is_noticed() -> bool:
            self.file.touch()
            return self.server.output.wait_for(
                lambda lines: any("Reloading" in line for line in lines[begin:]), 1
            )

        until(is_noticed, "the change", SECONDS)

    def page(self) -> dict[str, Any]:
        """As soon as there is one: connections are taken over, or refused, by an old worker."""
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            with suppress(OSError, AssertionError):
                found.append(self.server.get())
            return bool(found)

        until(is_there, "a page", SECONDS)
        return found[0]

    def answers(self, status: int) -> bool:
        with suppress(OSError):
            return self.status() == status
        return False

    def status(self) -> int:
        with socket.create_connection(("127.0.0.1", self.server.port), SECONDS) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            self.answer = b""
            while data := plain.recv(65536):
                self.answer += data
        return int(self.answer.split(b" ")[1]) if self.answer else 0


@contextmanager
def serving(folder: Path, text: str, *, trouble: str | None = None) -> Iterator[Site]:
    file = folder / "bare.py"
    file.write_text(text)
    server = Runws(command=COMMAND, folder=folder, environment=ENVIRONMENT, trouble=trouble)
    try:
        server.wait_for("Looking for changes in")
        yield Site(file, server)
        if server.process.poll() is None:
            server.signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) in (0, -signal.SIGKILL)
    finally:
        server.kill()


def version(number: int) -> str:
    return BARE.replace("VERSION", str(number))


def test_a_changed_file_starts_the_worker_anew(tmp_path: Path) -> None:
    with serving(tmp_path, version(1)) as site:
        assert site.page()["version"] == 1
        site.write(version(2))
        until(lambda: site.page()["version"] == 2, "the new version", SECONDS)
        assert "bare.py" in site.server.printed
        site.server.wait_for_workers(1)


def test_a_worker_that_is_killed_is_replaced_and_told(tmp_path: Path) -> None:
    with serving(tmp_path, version(1)) as site:
        dead = site.page()["pid"]
        os.kill(dead, signal.SIGKILL)
        site.server.wait_for(f"Worker [{dead}] died (SIGKILL), a new one is started")
        assert site.page()["pid"] != dead
        assert state(dead) is None  # no zombie either


@pytest.mark.parametrize("mistake", ["def broken(:\n", "1 / 0\n", "import sys; sys.exit(1)\n"])
def test_while_the_code_does_not_import_503_says_so(tmp_path: Path, mistake: str) -> None:
    with serving(tmp_path, version(1)) as site:
        site.page()
        site.write(mistake)
        until(lambda: site.answers(503), "the explanation", SECONDS)
        assert b"the server's log says why" in site.answer
        with pytest.raises(InvalidStatus) as caught:
            connect(f"ws://127.0.0.1:{site.server.port}/", open_timeout=SECONDS)
        assert caught.value.response.status_code == 503
        site.server.wait_for("answers 503 until a file has changed")
        site.write(version(2))
        until(lambda: site.answers(200), "the page", SECONDS)
        assert site.page()["version"] == 2


def test_code_that_does_not_import_at_the_start_is_waited_for(tmp_path: Path) -> None:
    with serving(tmp_path, "1 / 0\n") as site:
        site.server.wait_for("ZeroDivisionError", "answers 503 until a file has changed")
        assert site.status() == 503
        site.write(LIFESPAN)
        until(lambda: site.server.printed.count("answers 503 until") == 2, "the second", SECONDS)
        assert "no database" in site.server.printed
        site.write(version(3))
        until(lambda: site.answers(200), "the page", SECONDS)


def test_a_worker_that_lingers_is_not_waited_for(tmp_path: Path) -> None:
    with serving(tmp_path, LINGERS) as site, socket.socket() as plain:
        site.server.wait_for("is ready")
        [lingering] = site.server.ready
        plain.connect(("127.0.0.1", site.server.port))
        plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        site.server.wait_for("asleep")
        site.write(version(2))
        assert site.page()["version"] == 2
        assert is_gone(lingering)


@pytest.mark.parametrize("text", [version(1), LINGERS], ids=["idle", "lingering"])
def test_when_the_parent_is_killed_the_worker_is_gone_within_two_seconds(
    tmp_path: Path, text: str
) -> None:
    with serving(tmp_path, text) as site, socket.socket() as plain:
        site.server.wait_for("is ready")
        [worker] = site.server.ready
        plain.connect(("127.0.0.1", site.server.port))
        plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        site.server.wait_for("asleep" if text is LINGERS else "GET / HTTP/1.1")
        killed = time.monotonic()
        site.server.process.kill()
        until(lambda: is_gone(worker), "the end of the worker", SECONDS)
        assert time.monotonic() - killed < 4  # 2 are promised; the machine may be busy
        with pytest.raises(ConnectionRefusedError):
            site.status()


def test_ctrl_c_counts_once(tmp_path: Path) -> None:
    with serving(tmp_path, version(1)) as site:
        worker = site.page()["pid"]
        for pid in (worker, site.server.process.pid):  # as a terminal sends it
            os.kill(pid, signal.SIGINT)
        assert site.server.process.wait(SECONDS) == 0
        assert is_gone(worker)


# Without watchfiles


@pytest.mark.parametrize("finder", [None, StatReload], ids=["as installed", "without watchfiles"])
def test_changes_are_found_whatever_finds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finder: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    if finder is not None:
        monkeypatch.setattr(file_changes, "ChangeReload", finder)
    file = tmp_path / "module.py"
    file.write_text("1")
    found = Changes("module:application")
    try:
        assert found.take() == set()
        for _ in range(2):
            until(partial(is_changed, file, found), "the change", SECONDS)
    finally:
        found.close()


def is_changed(file: Path, found: Changes) -> bool:
    later = file.stat().st_mtime + 1
    os.utime(file, (later, later))
    files = found.take()
    assert files <= {file.name}
    return bool(files)


def test_folders_elsewhere_are_named_in_full(tmp_path: Path) -> None:
    shown: Callable[[Any], set[str]] = file_changes._shown
    assert shown([tmp_path / "a.py"]) == {str(tmp_path / "a.py")}
