"""The parent of the workers: it starts, replaces, restarts and ends them.

It is not uvicorn's ``Multiprocess`` (0.54), though that knows the same signals. That one waits for
a worker to end before it looks at anything else: while connections are drained, neither a second
signal nor a death would be noticed. Its health check is answered by a thread of the worker, so an
event loop that hangs counts as healthy. It starts a worker that dies again and again without a
pause, and takes neither another class of server nor another process as well as the workers.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import wait
from types import FrameType
from typing import Any

from django_ws.server.options import Options
from django_ws.server.workers.broker_process import BrokerProcess
from django_ws.server.workers.child import Child, Order, Pauses, Report, pipe_from_child
from django_ws.server.workers.file_changes import Changes
from django_ws.server.workers.heartbeat import LOOK_SECONDS, Heartbeat
from django_ws.server.workers.loading import CANNOT_START, Site
from django_ws.server.workers.main_thread import Stack
from django_ws.server.workers.shared_table import Row, Table
from django_ws.server.workers.worker import Place, run

logger = logging.getLogger("uvicorn.error")

START_SECONDS = 120.0  # for a new worker to be ready; then it is killed
STACK_SECONDS = 1.0  # for a worker that hangs to tell on what it stands
AT_ONCE_SECONDS = 2.0  # between "stop at once" and SIGKILL; a third signal does not wait
IS_ALONE = (
    "Broadcasts stay in one worker, since they go through its memory. Where the others "
    "were added later, send SIGHUP. Otherwise set WS_BROADCAST, for "
    'example to "redis://127.0.0.1:6379/0", or leave it unset, install pyzmq '
    '(pip install "django-ws[zmq]") and see that a temporary folder can be written to (TMPDIR); '
    "then send SIGHUP"
)


class Worker:
    """One worker, as its parent sees it."""

    def __init__(self, child: Child, generation: int, row: Row, stack: Stack) -> None:
        self.child = child
        self.generation = generation  # how many restarts there had been
        self.row = row
        self.stack = stack
        self.heartbeat = Heartbeat(row)
        self.hangs = False
        self.kill_when_still_for = float("inf")  # seconds, by ``heartbeat``
        self.is_ready = False
        self.is_alone = False
        self.is_leaving = False  # told to stop, or stopping by itself
        self.kill_at = child.began + START_SECONDS

    def __str__(self) -> str:
        return f"Worker [{self.child.pid}]"


class Supervisor:
    """``run`` returns the exit code, when all processes have ended. For the main thread alone.

    With ``changes`` each change of a file ends the workers, and then new ones are started.
    """

    def __init__(
        self,
        application: str,
        options: Options,
        sockets: Sequence[socket.socket],
        changes: Changes | None = None,
    ) -> None:
        self.target = options.workers
        self.workers: list[Worker] = []  # the oldest first
        self.exit_code = 0
        self._application = application
        self._options = options
        self._sockets = list(sockets)
        self._changes = changes
        self._table = Table()
        self._hang_seconds = 0.0 if changes is not None else options.hang_timeout
        self._looked_at = 0.0
        self._graceful_seconds = options.graceful_timeout + options.late_seconds
        self._broker = BrokerProcess(self._graceful_seconds)
        self._pauses = Pauses()
        self._generation = 0
        self._has_served = self._has_warned = False
        self._is_stopping = self._is_stopping_at_once = False
        self._signals: deque[int] = deque()

    def run(self) -> int:
        handlers: dict[int, Callable[[], None]] = {
            signal.SIGTERM: self._stop,
            signal.SIGINT: self._stop,
            signal.SIGQUIT: self._stop_at_once,
            signal.SIGHUP: self._restart,
            signal.SIGTTIN: self._add,
            signal.SIGTTOU: self._remove,
            signal.SIGUSR1: partial(self._ignore, signal.SIGUSR1),
            signal.SIGUSR2: partial(self._ignore, signal.SIGUSR2),
        }
        logger.info("Started parent process [%d], workers: %d", os.getpid(), self.target)
        woken, waking = socket.socketpair()
        for end in (woken, waking):
            end.setblocking(False)
        signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, self._note) for number in handlers}
        try:
            while True:
                self._look()
                while self._signals:
                    handlers[self._signals.popleft()]()
                self._reach_target()
                if self._is_stopping and not self.workers:
                    break
                if woken in wait([woken, *self._waitables()], self._seconds_to_look()):
                    woken.recv(4096)
        finally:
            for worker in self.workers:  # after an error alone; Python would wait for them
                worker.child.kill()
            self._broker.close()
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            woken.close()
            waking.close()
        logger.info("Stopped parent process [%d]", os.getpid())
        return self.exit_code

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)

    # What the signals do.

    def _stop(self) -> None:
        if self._is_stopping:
            self._stop_at_once()
            return
        self._is_stopping = True
        logger.info("Stopping; another signal ends it at once")
        for worker in self.workers:
            self._retire(worker)

    def _stop_at_once(self) -> None:
        seconds = 0.0 if self._is_stopping_at_once else AT_ONCE_SECONDS
        self._is_stopping = self._is_stopping_at_once = True
        logger.info("Stopping at once")
        for worker in self.workers:
            self._retire(worker)
            worker.kill_at = min(worker.kill_at, time.monotonic() + seconds)
            worker.child.tell(Order.STOP_AT_ONCE)

    def _restart(self) -> None:
        self._generation += 1
        logger.info("Restarting the workers, one by one")

    def _add(self) -> None:
        self.target += 1
        logger.info("One worker more: %d", self.target)
        self._warn_of_solitude()

    def _remove(self) -> None:
        if self.target > 1:
            self.target -= 1
            logger.info("One worker less: %d", self.target)
        else:
            logger.warning("One worker is the least: it stays")

    def _ignore(self, number: signal.Signals) -> None:
        logger.warning("%s means nothing here: it is ignored", number.name)

    # What the workers do.

    def _look(self) -> None:
        self._broker.look()
        if self._changes is not None and (files := self._changes.take()):
            self._reload(files)
        now = time.monotonic()
        if self._hang_seconds and now >= self._looked_at + LOOK_SECONDS:
            self._looked_at = now
            self._look_for_hanging(now)
        for worker in list(self.workers):
            is_alive = worker.child.is_alive  # before its last words are read
            for report in worker.child.reports():
                self._receive(worker, report)
            if not is_alive:
                self._discard(worker)
            elif now >= worker.kill_at:
                self._kill(worker)

    def _look_for_hanging(self, now: float) -> None:
        for worker in self.workers:
            if not worker.is_ready or worker.is_leaving:
                continue
            still_for = worker.heartbeat.look(now, worker.child.pid or 0)
            if still_for < self._hang_seconds:
                worker.hangs = False  # it goes on
            elif not worker.hangs:
                worker.hangs, worker.kill_when_still_for = True, still_for + STACK_SECONDS
                worker.stack.ask(worker.child.pid or 0)
            elif still_for >= worker.kill_when_still_for:
                self._kill_hanging(worker)

    def _kill_hanging(self, worker: Worker) -> None:
        logger.error(
            "%s: its event loop has stood still for %.0f s (--hang-timeout): it is killed. "
            "It stands on:\n%s",
            worker,
            worker.heartbeat.still_for,
            worker.stack.read() or "(it does not tell)",
        )
        worker.kill_when_still_for = float("inf")
        worker.child.process.kill()

    def _kill(self, worker: Worker) -> None:
        verb = "end" if worker.is_leaving else "start"
        logger.error("%s did not %s in time: it is killed", worker, verb)
        worker.kill_at = float("inf")
        worker.child.process.kill()

    def _reload(self, files: set[str]) -> None:
        """End all workers; others are started when they have ended, which is soon."""
        logger.warning("Reloading: changed are %s", ", ".join(sorted(files)))
        self._pauses = Pauses()
        for worker in self._staying:
            self._retire(worker)

    def _receive(self, worker: Worker, report: Report) -> None:
        match report:
            case Report.NEEDS_BROKER:
                self._broker.ask(worker.child)
                self._broker.look()
            case Report.IS_ALONE:
                worker.is_alone = True
                self._warn_of_solitude()
            case Report.READY | Report.EXPLAINS:
                worker.is_ready = self._has_served = True
                if not worker.is_leaving:
                    worker.kill_at = float("inf")
                if report is Report.READY:
                    logger.info("%s is ready", worker)
                else:
                    logger.error("%s answers 503 until a file has changed", worker)
            case Report.LEAVING if not worker.is_leaving:
                self._retire(worker)

    def _discard(self, worker: Worker) -> None:
        self.workers.remove(worker)
        child, outcome = worker.child, worker.child.outcome
        code = child.process.exitcode or 0
        if worker.is_leaving:
            logger.info("%s has ended (%s)", worker, outcome)
        elif not self._has_served and code > 0:
            self._end(f"{worker} could not start ({outcome})")
        elif not worker.is_ready and self._has_spare_gone:
            logger.error("%s could not start (%s): the old workers stay", worker, outcome)
            self._keep_old(worker.generation)
        else:
            pause = self._pauses.note_death(child)
            when = f" in {pause:g} s" if pause else ""
            logger.error("%s died (%s), a new one is started%s", worker, outcome, when)
        child.close()
        worker.stack.close()
        self._table.give_back(worker.row)

    def _end(self, reason: str) -> None:
        """Another attempt would end in the same way; and who started this looks at it now."""
        logger.error("%s: this is the end", reason)
        self.exit_code = CANNOT_START
        self._is_stopping = True

    def _keep_old(self, generation: int) -> None:
        """Give this restart up, but not one that was asked for since."""
        for worker in self.workers:
            worker.generation = max(worker.generation, generation)

    @property
    def _has_spare_gone(self) -> bool:
        """Whether who is absent was to take the place of an old one, which is still there."""
        return len(self._staying) >= self.target and bool(self._stale)

    @property
    def _staying(self) -> list[Worker]:
        return [worker for worker in self.workers if not worker.is_leaving]

    @property
    def _stale(self) -> list[Worker]:
        return [worker for worker in self._staying if worker.generation < self._generation]

    def _reach_target(self) -> None:
        """Start who is missing, tell those to stop who are too many; in a restart, in turn."""
        if self._is_stopping:
            return
        staying, stale = self._staying, self._stale
        if self._changes is not None and len(staying) < len(self.workers):
            return  # what the old code holds, a port for example, may be free only at its end
        # The first shows whether the application can be imported at all: one traceback, not N.
        missing = (self.target if self._has_served else 1) - len(staying)
        if missing > 0:
            for _ in range(missing):
                if not self._pauses.left:
                    self._start()
        elif not all(worker.is_ready for worker in staying):
            return  # nobody leaves before the new one is ready
        elif missing < 0:
            for worker in (stale or staying)[:-missing]:
                self._retire(worker)
        elif stale and len(staying) == len(self.workers):
            self._start()

    def _start(self) -> None:
        try:
            worker = self._new_worker()
        except OSError as error:
            self._cannot_start(error)
        else:
            self.workers.append(worker)

    def _new_worker(self) -> Worker:
        """Raises ``OSError``, and leaves nothing behind, where it cannot be started."""
        broker = self._broker.location if self.target > 1 else None
        site = Site(self._application, self._options, broker)
        with ExitStack() as undo:
            row = self._table.take()
            undo.callback(self._table.give_back, row)
            mine, theirs = pipe_from_child()
            undo.callback(mine.close)
            with theirs:
                child = Child("worker", run, site, Place(self._sockets, row, theirs))
            undo.pop_all()
        return Worker(child, self._generation, row, Stack(mine))

    def _cannot_start(self, error: OSError) -> None:
        if not self._has_served:
            self._end(f"A worker could not be started ({error})")
        elif self._has_spare_gone:
            logger.error("A worker could not be started (%s): the old workers stay", error)
            self._keep_old(self._generation)
        else:
            pause = self._pauses.note_failure()
            logger.error(
                "A worker could not be started (%s): another attempt in %g s", error, pause
            )

    def _retire(self, worker: Worker) -> None:
        worker.is_leaving = True
        worker.kill_at = min(worker.kill_at, time.monotonic() + self._graceful_seconds)
        # Where all stop, nobody else would answer: handshakes are told so with 503.
        worker.child.tell(Order.STOP if self._is_stopping else Order.HAND_OVER)

    def _warn_of_solitude(self) -> None:
        if self.target > 1 and not self._has_warned and any(w.is_alone for w in self.workers):
            self._has_warned = True
            logger.warning(IS_ALONE)

    def _waitables(self) -> list[Any]:
        children = [each for worker in self.workers for each in worker.child.waitables()]
        changes = [self._changes.woken] if self._changes is not None else []
        return [*children, *self._broker.waitables(), *changes]

    def _seconds_to_look(self) -> float | None:
        """Until something is due that nobody tells of. None: never."""
        now = time.monotonic()
        due = [worker.kill_at - now for worker in self.workers]
        due += self._broker.seconds_to_look
        if self._hang_seconds:
            due.append(self._looked_at + LOOK_SECONDS - now)
        if self._pauses.left:
            due.append(self._pauses.left)
        soonest = min(due, default=float("inf"))
        return None if soonest == float("inf") else max(0.0, soonest)
