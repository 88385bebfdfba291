"""A child process of the supervisor, and the pipe between the two."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

STABLE_SECONDS = 10.0  # a process that has lived so long is replaced without a pause
MAX_PAUSE_SECONDS = 30.0

# Terminals and service managers send signals to all processes at once. These are the parent's
# affair; a child must call `release_signals` when it has seen to it that they do it no harm.
PARENTS_SIGNALS = (
    *(signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTTIN, signal.SIGTTOU),
    *(signal.SIGUSR1, signal.SIGUSR2),
)

# A new interpreter: nothing of the parent's threads, locks and connections, and the code of now.
_spawn = multiprocessing.get_context("spawn")
multiprocessing.allow_connection_pickling()  # sockets, too

_PREFIX = "django_ws "  # of the names of our processes


def is_starting() -> bool:
    """Whether this process is a child that imports the main module of its parent: it must not
    start servers itself.
    """
    return multiprocessing.current_process().name.startswith(_PREFIX)


class Order(StrEnum):
    """From the supervisor. The end of the pipe means that it has died."""

    GO_ON = "go on"  # the broker serves
    STOP = "stop"  # gently; again is no harm
    HAND_OVER = "hand over"  # stop gently, and leave new connections to the other workers
    STOP_AT_ONCE = "stop at once"


class Report(StrEnum):
    """To the supervisor."""

    NEEDS_BROKER = "needs the broker"  # and waits for GO_ON
    IS_ALONE = "is alone"  # its broadcasts reach no other worker
    READY = "ready"
    EXPLAINS = "explains"  # it cannot serve the site, and answers so; with --reload alone
    LEAVING = "leaving"  # serves to its end what it has, and takes no more


class Child:
    """Starts at once. ``target(pipe, *args)`` runs in the new process, in its main thread.

    Raises ``OSError`` where there are no descriptors, processes or memory left for it.
    """

    def __init__(self, name: str, target: Callable[..., None], *args: Any) -> None:
        self.pipe, theirs = _spawn.Pipe()
        self.process = _spawn.Process(target=target, args=(theirs, *args), name=_PREFIX + name)
        self.began = time.monotonic()
        try:
            with _signals_held():
                self.process.start()
        except BaseException:
            self.pipe.close()
            raise
        finally:
            theirs.close()  # so that its death ends the pipe

    @property
    def pid(self) -> int | None:
        return self.process.pid

    @property
    def is_alive(self) -> bool:
        return self.process.is_alive()

    @property
    def outcome(self) -> str:
        """How it ended, for the log."""
        code = self.process.exitcode or 0
        if code >= 0:
            return f"exit code {code}"
        known = {number.value: number.name for number in signal.Signals}
        return known.get(-code, f"signal {-code}")

    def waitables(self) -> list[Any]:
        """For ``multiprocessing.connection.wait``: it has told something, or has ended."""
        return [self.process.sentinel] if self.pipe.closed else [self.process.sentinel, self.pipe]

    def tell(self, order: Order) -> None:
        with suppress(OSError):  # it has ended, or just ends
            self.pipe.send(order)

    def reports(self) -> Iterator[Report]:
        """What it has told since. Never waits."""
        try:
            while not self.pipe.closed and self.pipe.poll():
                yield self.pipe.recv()
        except (EOFError, OSError):
            self.pipe.close()

    def close(self) -> None:
        """After its end, or together with it."""
        self.process.join()
        self.process.close()
        self.pipe.close()

    def kill(self) -> None:
        self.process.kill()
        self.close()


@contextmanager
def _signals_held() -> Iterator[None]:
    """For a process that is started now. It would have no handlers yet, and die."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PARENTS_SIGNALS)
    try:
        resource_tracker.ensure_running()  # it releases SIGINT
        signal.pthread_sigmask(signal.SIG_BLOCK, PARENTS_SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def release_signals() -> None:
    """In the child, when it has its handlers."""
    # One by one: the stack that faulthandler gives to signal handlers is small, and all that wait
    # would be delivered within each other.
    for number in PARENTS_SIGNALS:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])


def pipe_from_child() -> tuple[Connection, Connection]:
    """What the parent reads, and what a child that is given it writes."""
    return _spawn.Pipe(duplex=False)


class Pauses:
    """How long to wait before a process is started again: longer each time it dies at once."""

    def __init__(self) -> None:
        self._deaths = 0
        self._until = 0.0

    def note_death(self, child: Child) -> float:
        """The seconds to wait now. The first death may be an accident: no pause."""
        age = time.monotonic() - child.began
        self._deaths = 0 if age >= STABLE_SECONDS else self._deaths + 1
        return self._pause()

    def note_failure(self) -> float:
        """Where it could not even be started. There is always a pause."""
        self._deaths = max(self._deaths + 1, 2)
        return self._pause()

    def _pause(self) -> float:
        exponent = min(self._deaths, 10) - 2
        pause = min(2.0**exponent, MAX_PAUSE_SECONDS) if self._deaths > 1 else 0.0
        self._until = time.monotonic() + pause
        return pause

    @property
    def left(self) -> float:
        return max(0.0, self._until - time.monotonic())
