"""`runws` in processes of its own, and what the tests see of them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from websockets.sync.client import ClientConnection, connect

from tests import ROOT
from tests.support.redis_server import until
from tests.support.servers import TROUBLE, Lines

APPLICATION = "tests.integration.server.runws_site.asgi:application"
SETTINGS = "tests.integration.server.runws_site.settings"
SERVER = ("-m", "django_ws.server", APPLICATION)
COMMAND = ("-m", "django", "runws")
SECONDS = 45.0  # the longest that anything here may take


class Runws:
    """One parent with its workers. ``with`` waits until they serve, and ends them."""

    def __init__(
        self,
        *options: str,
        command: tuple[str, ...] = SERVER,
        workers: int = 1,
        folder: Path = ROOT,
        trouble: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.workers = workers
        self.trouble = trouble  # what of its output is expected, though it looks like trouble
        mine = {key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"}
        arguments = [*command, "-w", str(workers), "--graceful-timeout", "10", *options]
        if not any(option in ("-b", "--bind") for option in options):
            arguments += ["-b", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env={**mine, "PYTHONPATH": str(ROOT), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self.process.stdout is not None
        self.output = Lines(self.process.stdout)

    def __enter__(self) -> Self:
        try:
            self.wait_for_workers()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if self.process.poll() is None:
                self.signal(signal.SIGTERM)
            self.process.wait(SECONDS)
        finally:
            self.kill()
        told = [line for line in self.output.lines if TROUBLE.search(line)]
        assert not told or self.trouble, self.printed
        assert self.trouble is None or self.trouble in self.printed, self.printed

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pid in self.children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.output.close()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    @property
    def printed(self) -> str:
        return "\n".join(self.output.lines)

    def wait_for(self, *texts: str) -> None:
        """Until lines have said all that."""
        if not self.output.wait_for(
            lambda lines: all(any(text in line for line in lines) for text in texts), SECONDS
        ):
            raise AssertionError(f"{texts} never came:\n{self.printed}")

    def found(self, pattern: str) -> list[int]:
        return [int(match[1]) for match in re.finditer(pattern, self.printed)]

    @property
    def children(self) -> set[int]:
        """All that were ever started."""
        return {
            *self.found(r"server process \[(\d+)\]"),
            *self.found(r"Started the broker.*\[(\d+)"),
        }

    @property
    def ready(self) -> list[int]:
        """The workers that serve now, in the order in which they began."""
        gone = self.found(r"Worker \[(\d+)\] (?:has ended|died)")
        return [pid for pid in self.found(r"Worker \[(\d+)\] is ready") if pid not in gone]

    def wait_for_workers(self, count: int | None = None) -> list[int]:
        """Until so many serve, and no others."""
        wanted = self.workers if count is None else count
        if not self.output.wait_for(lambda _: len(self.ready) == wanted, SECONDS):
            raise AssertionError(f"never {wanted} workers:\n{self.printed}")
        return self.ready

    @property
    def port(self) -> int:
        [port, *_] = self.found(r"Listening on https?://\S+:(\d+)")
        return port

    def get(self, path: str = "/", **headers: str) -> dict[str, Any]:
        """A page, on a connection of its own."""
        with socket.create_connection(("127.0.0.1", self.port), SECONDS) as plain:
            return fetch(plain, path, **headers)

    def connect(self, path: str = "/room/", **options: Any) -> ClientConnection:
        client: ClientConnection = connect(
            f"ws://127.0.0.1:{self.port}{path}", open_timeout=SECONDS, close_timeout=5, **options
        )
        return client


def fetch(plain: socket.socket, path: str = "/", **headers: str) -> dict[str, Any]:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    plain.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    answer = b""
    while data := plain.recv(65536):
        answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), answer
    page: dict[str, Any] = json.loads(body)
    return page


def receive(client: ClientConnection) -> Any:
    return json.loads(client.recv(timeout=SECONDS))


class Stopped:
    """A process that is frozen for a while."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __enter__(self) -> Self:
        os.kill(self.pid, signal.SIGSTOP)
        until(lambda: state(self.pid) == "T", "the stop")
        return self

    def __exit__(self, *error: object) -> None:
        os.kill(self.pid, signal.SIGCONT)


def state(pid: int) -> str | None:
    """R, S, T (stopped), Z; None where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return None


def is_gone(pid: int) -> bool:
    return state(pid) in (None, "Z")
