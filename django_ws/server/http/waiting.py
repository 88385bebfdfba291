"""Connections that wait for a request: closes those that wait too long, or are too many.

One timer serves them all, and none is made for a request that comes at once.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context
from enum import Enum, auto
from typing import Protocol
from weakref import WeakKeyDictionary, ref

from uvicorn.server import ServerState

from django_ws.logs.throttled import ThrottledLog
from django_ws.server.faults import abort_faulty
from django_ws.server.http.limits import Limits

logger = logging.getLogger("uvicorn.error")

BODY_SECONDS = 60.0  # without a byte of a body that has begun, while it would be read
BODY_AT_THE_END_SECONDS = 5.0  # the same, when the server ends
LOOK_SECONDS = 1.0  # between two looks for those that have waited too long
YOUNG_SECONDS = 1.0  # younger ones are not dropped: what they have sent may not have been read

_drops = ThrottledLog(logger, logging.WARNING, "connections dropped to make room")


class Phase(Enum):
    """What a connection waits for."""

    IDLE = auto()  # the next request, after an answer: uvicorn's keep-alive time-out ends it
    HEAD = auto()  # the first request, or the rest of a head
    BODY = auto()  # the rest of a body


class Connection(Protocol):
    """``phase`` is for ``Waiting`` alone to set."""

    phase: Phase | None

    @property
    def is_held_back(self) -> bool:
        """Whether the server reads nothing from it just now."""

    def timed_out(self, phase: Phase) -> None:
        """It has waited too long."""

    def drop(self) -> None:
        """End it without an answer: there are too many."""


class Waiting:
    """Those of one server, in one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        self._loop = loop
        self._limits = limits
        # Since when each waits, the longest first. Those that are dropped first come first.
        self._since: dict[Phase, dict[Connection, float]] = {phase: {} for phase in Phase}
        self._timer: asyncio.TimerHandle | None = None
        self._is_ending = False

    def end(self) -> None:
        """The server ends: who uploads nothing more shall not hold it up."""
        self._is_ending = True

    def __len__(self) -> int:
        return sum(map(len, self._since.values()))

    def note(self, connection: Connection, phase: Phase | None) -> None:
        """What it waits for now, if for anything. A part of a body begins its time again."""
        before = connection.phase
        if phase is before and phase is not Phase.BODY:
            return
        if before is not None:
            del self._since[before][connection]
        connection.phase = phase
        if phase is not None:
            self._since[phase][connection] = self._loop.time()
            if self._timer is None:
                self._start()
            if len(self) > self._limits.max_waiting:
                self._make_room()

    def _start(self) -> None:
        seconds = min(LOOK_SECONDS, self._limits.header_timeout / 4)
        # In an empty context: that of the connection which starts it would be kept alive.
        self._timer = self._loop.call_later(seconds, _look, ref(self), context=Context())

    def look(self) -> None:
        """End those that have waited too long. Called by the timer."""
        self._timer = None
        self._end_late(Phase.HEAD, self._limits.header_timeout)
        self._end_late(Phase.BODY, BODY_AT_THE_END_SECONDS if self._is_ending else BODY_SECONDS)
        self._make_room()
        if len(self) and self._timer is None:  # ``note`` may have started it
            self._start()

    def _end_late(self, phase: Phase, seconds: float) -> None:
        now = self._loop.time()
        late = []
        for connection, since in self._since[phase].items():
            if now - since < seconds:
                break
            late.append(connection)
        for connection in late:
            if connection.is_held_back:
                self.note(connection, None)  # to the end of the line
                self.note(connection, phase)
            else:
                self.note(connection, None)
                try:
                    connection.timed_out(phase)
                except Exception as error:  # the others have waited too long as well
                    abort_faulty(connection, "ended in time", error)

    def _make_room(self) -> None:
        too_many = len(self) - self._limits.max_waiting
        for phase in Phase:
            while too_many > 0 and (connection := self._oldest(phase)) is not None:
                too_many -= 1
                self.note(connection, None)
                try:
                    connection.drop()
                except Exception as error:  # it happens in the turn of another one
                    abort_faulty(connection, "dropped", error)
                _drops.log(
                    None,
                    "More than %d connections wait for their client's request: the oldest are "
                    "dropped. If these are not attackers, raise --max-waiting",
                    self._limits.max_waiting,
                )

    def _oldest(self, phase: Phase) -> Connection | None:
        since = self._since[phase]
        connection = next(iter(since), None)
        if connection is None or phase is Phase.IDLE:
            return connection
        return connection if self._loop.time() - since[connection] >= YOUNG_SECONDS else None


def _look(waiting: ref[Waiting]) -> None:
    if (found := waiting()) is not None:
        found.look()


_all: WeakKeyDictionary[ServerState, Waiting] = WeakKeyDictionary()


def waiting_of(
    server_state: ServerState, loop: asyncio.AbstractEventLoop, limits: Limits
) -> Waiting:
    """The one of a server."""
    try:
        return _all[server_state]
    except KeyError:
        waiting = _all[server_state] = Waiting(loop, limits)
        return waiting
