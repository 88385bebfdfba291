"""Real servers in processes of their own, and what the tests see of them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any
from urllib.request import urlopen

from tests import ROOT
from tests.support.redis_server import free_port, until

APPLICATION = "tests.e2e.site.asgi:application"
START_SECONDS = 50.0
STOP_SECONDS = 30.0
WAIT_SECONDS = 30.0
CHOSEN_PORT = "the chosen port"  # in the command of a server that does not tell which it got

# What no server may print: an exception that left the application, or one that nobody looked at.
TROUBLE = re.compile(
    r"Traceback|never awaited|never retrieved|was destroyed but|Exception ignored"
    r"|(Runtime|Resource)Warning|without sending handshake|without completing"
)

Event = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A server's command line, and where it is documented to know less than others."""

    name: str
    command: tuple[str, ...]
    gives_status: bool = True  # of a refused handshake; otherwise 403
    gives_reason: bool = True  # of the server's close, to the client
    sends_any_code: bool = True  # otherwise 1000 and 3000 to 4999 alone; others come 3000 higher
    tells_client_code: bool = True  # of the client's close, to the application
    tells_client_reason: bool = True
    tells_vanished: bool = True  # from a close without a code; otherwise 1005 for both
    notices_early_leaving: bool = True  # of a client that vanishes before the accept
    takes_any_header: bool = True  # also one that is not UTF-8
    has_backpressure: bool = True  # send waits for a client that reads slowly
    ends_before_clients: bool = True  # though their TCP connections are still open
    ends_applications: bool = True  # lets them run to their end when it is told to end
    own_trouble: str | None = None  # what it prints or logs itself as it ends

    def status(self, status: int) -> int:
        """What a client gets where the application refuses with a status."""
        return status if self.gives_status else 403

    @property
    def vanished(self) -> int:
        """The code that the application sees where the client has vanished."""
        return 1006 if self.tells_vanished else 1005

    def code(self, code: int) -> int:
        """What a client gets where the application closes with a code."""
        return code if self.sends_any_code or code == 1000 or code >= 3000 else code + 3000


def _uvicorn(implementation: str, name: str = "", **limits: bool) -> Kind:
    command = ("uvicorn", APPLICATION, "--port", "0", "--ws", implementation, "--no-access-log")
    return Kind(f"uvicorn-{name or implementation}", command, **limits)  # type: ignore[arg-type]


def _daphne_limits(size: int) -> tuple[str, ...]:
    return (
        *("--websocket-max-message-size", str(size)),
        *("--websocket-max-frame-size", str(size)),
    )


GRANIAN_OPTIONS = ("--interface", "asgi", "--workers-kill-timeout", "5")

KINDS = {
    kind.name: kind
    for kind in (
        _uvicorn("websockets-sansio"),
        _uvicorn("websockets", takes_any_header=False),
        _uvicorn("wsproto"),
        _uvicorn("django_ws.server.protocol:FastProtocol", "fast"),
        Kind(
            "daphne",
            # Its own limit would end a connection without a close frame, before ours is reached.
            ("daphne", "--port", "0", *_daphne_limits(16 * 1024 * 1024), APPLICATION),
            gives_status=False,
            gives_reason=False,
            sends_any_code=False,
            tells_client_reason=False,
            has_backpressure=False,
            ends_applications=False,
        ),
        Kind(
            "hypercorn",
            ("hypercorn", "--bind", "127.0.0.1:0", "--workers", "0", APPLICATION),
            tells_client_code=False,
            tells_client_reason=False,
            own_trouble=r"Exception in callback StreamReaderProtocol\.connection_made",
            # It awaits asyncio.Server.wait_closed(), which waits for all connections since 3.12.
            ends_before_clients=sys.version_info < (3, 12),
        ),
        Kind(
            "granian",
            ("granian", *GRANIAN_OPTIONS, "--port", CHOSEN_PORT, APPLICATION),
            tells_client_reason=False,
            tells_vanished=False,
            notices_early_leaving=False,
            ends_applications=False,
            own_trouble=r"Killing worker",
        ),
    )
}
DEFAULT = "uvicorn-websockets-sansio"  # what uvicorn chooses by itself
FAST = "uvicorn-fast"  # what `runws` chooses


class Lines:
    """The lines that come out of a pipe, read by a thread so that the writer never waits."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self.changed = threading.Condition()
        self.lines: list[str] = []
        self.ended = False
        self._pipe = pipe
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait_for(self, condition: Callable[[list[str]], bool], seconds: float) -> bool:
        """Wait until the lines fulfil a condition or none can come; whether they do."""
        with self.changed:
            self.changed.wait_for(lambda: self.ended or condition(self.lines), seconds)
            return condition(self.lines)

    def close(self) -> None:
        """After the writer's end."""
        self._thread.join(WAIT_SECONDS)
        self._pipe.close()

    def _read(self) -> None:
        for line in self._pipe:
            with self.changed:
                self.lines.append(line.decode("utf-8", "replace").rstrip("\n"))
                self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()


class Server:
    """One server process. ``events`` are the site's notes, also those of its last moments."""

    def __init__(self, kind: Kind, **environment: str) -> None:
        self.kind = kind
        self._told_printed = self._told_logged = 0
        reading, writing = os.pipe()
        self.port = free_port()
        command = [str(self.port) if each == CHOSEN_PORT else each for each in kind.command]
        self.process = subprocess.Popen(
            [sys.executable, "-W", "default", "-m", *command],
            cwd=ROOT,
            env={
                **os.environ,
                "DJANGO_SETTINGS_MODULE": "tests.e2e.site.settings",
                "E2E_JOURNAL": str(writing),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[writing],
            start_new_session=True,  # so that workers can be killed, too
        )
        os.close(writing)
        assert self.process.stdout is not None
        self.output = Lines(self.process.stdout)
        self.journal = Lines(os.fdopen(reading, "rb"))
        try:
            self._wait_for_port()
            with urlopen(f"http://127.0.0.1:{self.port}/", timeout=START_SECONDS) as page:
                assert page.read() == b"a page by Django"
        except BaseException:
            self.kill()
            raise

    def _wait_for_port(self) -> None:
        """Until it serves: on the port that was given, or that the operating system has chosen."""
        if CHOSEN_PORT in self.kind.command:
            until(self._is_listening, "the server to listen", START_SECONDS)
            return
        announcement = re.compile(r"(?:running|listening) on .*127\.0\.0\.1:(\d+)", re.IGNORECASE)
        twisted = re.compile(r"Listening on TCP address 127\.0\.0\.1:(\d+)")
        found: list[re.Match[str]] = []

        def is_announced(lines: list[str]) -> bool:
            found[:] = [
                match
                for line in lines
                if (match := twisted.search(line) or announcement.search(line))
            ]
            return bool(found)

        if not self.output.wait_for(is_announced, START_SECONDS):
            raise RuntimeError(f"{self.kind.name} did not start:\n{self.printed}")
        self.port = int(found[0][1])

    def _is_listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def printed(self) -> str:
        return "\n".join(self.output.lines)

    def new_trouble(self) -> list[str]:
        """What no server may print or log, and no test has been told yet."""
        printed = [line for line in list(self.output.lines) if TROUBLE.search(line)]
        logged = [
            f"{event['level']} {event['message']}"
            for event in self.events(None)
            if event["event"] == "log" and event["level"] in ("WARNING", "ERROR", "CRITICAL")
        ]
        trouble = printed[self._told_printed :] + logged[self._told_logged :]
        self._told_printed, self._told_logged = len(printed), len(logged)
        own = self.kind.own_trouble
        return [
            line
            for line in trouble
            # On a busy machine any event loop may have to wait for a processor.
            if "The event loop has stood still" not in line
            and (own is None or not re.search(own, line))
        ]

    def events(self, key: str | None) -> list[Event]:
        """What was noted under one key so far, in order."""
        marker = f'{{"key": {json.dumps(key)},'
        return [json.loads(line) for line in list(self.journal.lines) if line.startswith(marker)]

    def wait_for(
        self, key: str, condition: Callable[[list[Event]], bool], seconds: float = WAIT_SECONDS
    ) -> bool:
        """Wait until the events under one key fulfil a condition; whether they do."""
        return self.journal.wait_for(lambda _: condition(self.events(key)), seconds)

    def terminate(self) -> None:
        """Ask it to end, as a process manager does."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> float:
        """Wait until it has ended by itself; the seconds that this took."""
        began = time.monotonic()
        self.process.wait(STOP_SECONDS)
        self.output.close()
        self.journal.close()
        return time.monotonic() - began

    def stop(self) -> None:
        """End it; raises if it does not end when asked to."""
        if self.process.returncode is not None:
            return
        self.terminate()
        try:
            self.wait()
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"{self.kind.name} ignored SIGTERM:\n{self.printed}") from None

    def kill(self) -> None:
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.wait()
