"""One test's view of a server: paths, connections and events under a key of its own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.http11 import Response
from websockets.sync.client import ClientConnection, connect

from tests.support.raw import RawClient
from tests.support.servers import Event, Kind, Server

CLIENT_SECONDS = 5.0


class Visit:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.key = uuid.uuid4().hex
        self._expected: list[str] = []
        self._printed_before = len(server.output.lines)

    @property
    def kind(self) -> Kind:
        return self.server.kind

    def url(self, path: str) -> str:
        return f"ws://127.0.0.1:{self.server.port}{self.path(path)}"

    def path(self, path: str) -> str:
        return f"/{self.key}/{path}"

    @contextmanager
    def connect(self, path: str, **options: Any) -> Iterator[ClientConnection]:
        """A well-behaved client, closed at the end."""
        given = {
            "open_timeout": CLIENT_SECONDS,
            "close_timeout": CLIENT_SECONDS,
            "compression": None,
            "max_size": None,
            "proxy": None,
            **options,
        }
        with connect(self.url(path), **given) as client:
            yield client

    def raw(
        self,
        path: str | bytes,
        headers: Sequence[tuple[bytes, bytes]] = (),
        *,
        host: bytes | None = None,
        receive_buffer: int | None = None,
    ) -> RawClient:
        """A client that can do anything."""
        if isinstance(path, str):
            path = path.encode()
        whole = f"/{self.key}/".encode() + path
        return RawClient(self.server.port, whole, headers, host=host, receive_buffer=receive_buffer)

    def refused(self, path: str, **options: Any) -> Response:
        """The answer to a handshake that is refused."""
        with pytest.raises(InvalidStatus) as caught, self.connect(path, **options):
            pass
        return caught.value.response

    # Events

    def events(self, name: str) -> list[Event]:
        return [event for event in self.server.events(self.key) if event["event"] == name]

    def wait_for(self, name: str, count: int = 1) -> Event:
        """Wait until an event was noted ``count`` times; the last of them."""
        self._wait(lambda event: bool(event["event"] == name), f"{name!r} {count} times", count)
        return self.events(name)[count - 1]

    def wait_for_log(self, level: str, part: str) -> str:
        """Wait for one line of the log; the whole line."""

        def fits(event: Event) -> bool:
            return event["event"] == "log" and event["level"] == level and part in event["message"]

        self._wait(fits, f"{level} {part!r}", 1)
        [line] = [line for line in self.log(level) if part in line]
        return line

    def _wait(self, fits: Callable[[Event], bool], what: str, count: int) -> None:
        if not self.server.wait_for(self.key, lambda events: sum(map(fits, events)) >= count):
            raise AssertionError(
                f"waited in vain for {what}; noted: {self.server.events(self.key)}\n"
                f"{self.server.printed[-4000:]}"
            )

    def ended(self) -> list[Event]:
        """Wait until nothing of the connections is left; the calls of ``on_close``."""
        if began := len(self.events("began")):
            self.wait_for("ended", began)
        return self.events("closed")

    def closed_once(self) -> Event:
        """Wait for the end; the one call of ``on_close``."""
        self.wait_for("began")
        [closed] = self.ended()
        return closed

    def log(self, level: str) -> list[str]:
        return [event["message"] for event in self.events("log") if event["level"] == level]

    def expect_errors(self, *parts: str) -> None:
        """Name what will be logged as ERROR, each once and in this order."""
        self._expected.extend(parts)

    def expect_trouble(self, last_line: str) -> None:
        """Wait for a traceback that the server itself prints, and take no offence at it."""

        def printed(lines: list[str]) -> bool:
            return any(last_line in line for line in lines[self._printed_before :])

        assert self.server.output.wait_for(printed, CLIENT_SECONDS), self.server.printed[-4000:]
        self.server.new_trouble()

    def check(self) -> None:
        """After the test: all is over, and no error was logged but those expected."""
        self.ended()
        for part in self._expected:
            self.wait_for_log("ERROR", part)  # some are logged after the connection's end
        errors = self.log("ERROR")
        assert len(errors) == len(self._expected), f"{errors}, expected: {self._expected}"
        for error, part in zip(errors, self._expected, strict=True):
            assert part in error
