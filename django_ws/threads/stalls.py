"""Notices when an event loop is blocked, and names the line that blocks it.

Every connection of a process waits while one async hook calls ``time.sleep()``, or anything else
that blocks. One thread for each event loop asks it twice a second for a sign of life, and looks
at the loop's stack where none comes. A message costs nothing.
"""

from __future__ import annotations

import asyncio
import linecache
import logging
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from weakref import WeakKeyDictionary

from django_ws.logs.throttled import ThrottledLog

logger = logging.getLogger("django.ws")

LOOK_SECONDS = 0.5
STALL_SECONDS = 1.0  # what is shorter is not told of

_stalls = ThrottledLog(logger, logging.WARNING, "stalls of the event loop")

_OURS = str(Path(__file__).parents[1])
_STANDARD = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")})
_INSTALLED = ("site-packages", "dist-packages")
# Packages that run the site's code, and are run by the library itself.
_MACHINERY = {
    *("asgiref", "autobahn", "channels", "daphne", "django", "granian", "h11", "hiredis"),
    *("httptools", "hypercorn", "msgspec", "redis", "twisted", "uvicorn", "uvloop", "websockets"),
    *("wsproto", "zmq"),
    # They wrap whatever they report on.
    *("ddtrace", "elasticapm", "newrelic", "opentelemetry", "sentry_sdk"),
}
_RUNNERS = {"asyncio.base_events", "asyncio.runners", "uvicorn.server"}
_DEBUGGERS = {"bdb", "pdb", "pydevd", "debugpy"}


class Signs:
    """What the looks at one event loop have shown. ``began`` is on the monotonic clock."""

    def __init__(self, began: float) -> None:
        self._looked_at = began
        self._asked_at = began
        self._is_told = False

    def asked(self, now: float) -> None:
        """It has answered, and is asked again."""
        self._looked_at = self._asked_at = now
        self._is_told = False

    def missing(self, now: float) -> float:
        """It has not answered: the seconds of a stall that is to be told of, or 0."""
        before, self._looked_at = self._looked_at, now
        if now - before > 2 * LOOK_SECONDS:
            # The look was late, too: the process was stopped, or the machine slept, or is too
            # busy. The loop gets its time again.
            self._asked_at = now
        seconds = now - self._asked_at
        if self._is_told or seconds < STALL_SECONDS:
            return 0.0
        self._is_told = True
        return seconds


class StallWatch:
    """Watches one event loop, whose thread calls this. ``stop`` ends it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread_of_loop = threading.get_ident()
        self._stopped = threading.Event()
        self._answers = 0  # how often the loop has answered
        self._thread = threading.Thread(
            target=self._watch, name="django_ws stall watch", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _answer(self) -> None:
        self._answers += 1

    def _watch(self) -> None:
        asked, signs = 0, Signs(time.monotonic())
        while not self._stopped.wait(LOOK_SECONDS):
            now = time.monotonic()
            if self._answers < asked:
                if seconds := signs.missing(now):
                    self._tell(seconds)
                continue
            try:
                self._loop.call_soon_threadsafe(self._answer)
            except RuntimeError:  # the loop was closed without a word
                _watches.pop(self._loop, None)  # it refers to its own key
                return
            asked += 1
            signs.asked(now)

    def _tell(self, seconds: float) -> None:
        frame = sys._current_frames().get(self._thread_of_loop)
        if frame is None or any(_module(each) in _DEBUGGERS for each in _frames(frame)):
            return
        found = _culprit(frame)
        if found is None:
            _stalls.log(
                "nobody",
                "The event loop has stood still for %.1f s, and none of your code runs in it (%s): "
                "this process has more to do than it can, or too little of a processor",
                seconds,
                _shown(frame),
            )
        else:
            _stalls.log(
                (found.f_code.co_filename, found.f_lineno),
                "The event loop has stood still for %.1f s, and with it every connection of this "
                "process: %s. Await what waits (asyncio.sleep() instead of time.sleep()), call "
                "blocking code by sync_to_async(), or write the hook with def instead of async def",
                seconds,
                _shown(found),
            )


def place_in(frame: FrameType) -> str:
    """The line of the site's code that runs there; empty where none does."""
    found = _culprit(frame)
    return _shown(found) if found is not None else ""


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """The innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _module(frame: FrameType) -> str:
    name: str = frame.f_globals.get("__name__") or ""
    return name.partition(".")[0]


def _culprit(frame: FrameType) -> FrameType | None:
    """The innermost frame of the site's own code; otherwise of a package that it uses."""
    foreign: FrameType | None = None
    for each in _frames(frame):
        file = each.f_code.co_filename
        if each.f_globals.get("__name__") in _RUNNERS:
            break  # what is further out has started the loop
        if file.startswith((_OURS, "<frozen")):
            continue
        if any(folder in Path(file).parts for folder in _INSTALLED):
            if foreign is None and _module(each) not in _MACHINERY:
                foreign = each
        elif not file.startswith(_STANDARD):
            return each
    return foreign


def _shown(frame: FrameType) -> str:
    code: CodeType = frame.f_code
    line = linecache.getline(code.co_filename, frame.f_lineno).strip()
    place = f"{code.co_filename}, line {frame.f_lineno}, in {code.co_qualname}"
    return f"{place}: {line}" if line else place


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, StallWatch] = WeakKeyDictionary()


def watch(loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Watch the running event loop; gives what ends it. Again is no harm."""
    if loop not in _watches:
        _watches[loop] = StallWatch(loop)
    return lambda: unwatch(loop)


def unwatch(loop: asyncio.AbstractEventLoop) -> None:
    watching = _watches.pop(loop, None)
    if watching is not None:
        watching.stop()
