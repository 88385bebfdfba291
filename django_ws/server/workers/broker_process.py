"""The ZeroMQ broker that ``runws`` starts, so that broadcasts reach all its workers.

It serves where ``WS_BROADCAST`` is not set and there is more than one worker. Its addresses lie
in a folder that nobody else may enter, and that is made when the first worker asks for it.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from secrets import token_hex
from stat import S_ISDIR
from typing import Any

from django_ws.server.workers.child import (
    PARENTS_SIGNALS,
    Child,
    Order,
    Pauses,
    Report,
    release_signals,
)

logger = logging.getLogger("uvicorn.error")


class BrokerProcess:
    """Started when a worker asks for it, and then again whenever it dies, until ``close``.

    ``seconds_after_parent``: how long it serves when its parent has died, since the workers still
    broadcast while they say good-bye.
    """

    def __init__(self, seconds_after_parent: float) -> None:
        self.child: Child | None = None
        self._folder: Path | None = None
        self._seconds = seconds_after_parent
        self._is_asked_for = self._is_ready = self._has_folder = False
        self._files: set[str] = set()  # in the folder, since it is ready
        self._waiting: list[Child] = []
        self._pauses = Pauses()

    @property
    def location(self) -> str | None:
        """None where pyzmq is not installed, or no temporary folder can be written to."""
        if find_spec("zmq"):
            with suppress(OSError):
                return _address(self._chosen_folder())
        return None

    def _chosen_folder(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.gettempdir(), f"django-ws-{token_hex(8)}")
        return self._folder

    def ask(self, worker: Child) -> None:
        """The worker is told to go on as soon as the broker serves."""
        self._is_asked_for = True
        self._waiting.append(worker)

    def look(self) -> None:
        """Start it, replace it, tell those who wait. Never waits; to be called again and again."""
        if self.child is not None:
            for _ in self.child.reports():
                self._is_ready = True
                self._files = _files_in(self._chosen_folder())
            if self._is_ready and not self._files <= _files_in(self._chosen_folder()):
                logger.error(
                    "The files of the broker for broadcasts in %s are gone: nobody reaches it any "
                    "more",
                    self._chosen_folder(),
                )
                self.child.process.kill()
                self._is_ready = False
            if not self.child.is_alive:
                self._discard(self.child)
        if self._is_asked_for and self.child is None and not self._pauses.left:
            self._start()
        if self._is_ready:
            for worker in self._waiting:
                worker.tell(Order.GO_ON)
            self._waiting.clear()

    def _start(self) -> None:
        try:
            folder = self._chosen_folder()
            folder.mkdir(mode=0o700, exist_ok=self._has_folder)  # those of /tmp are cleaned up
            self._has_folder = True
            _check_owner(folder)
            self.child = Child("broker", serve, folder, self._seconds)
        except OSError as error:
            pause = self._pauses.note_failure()
            logger.error(
                "The broker for broadcasts could not be started (%s): another attempt in %g s",
                error,
                pause,
            )
        else:
            logger.info("Started the broker for broadcasts [%s]", self.child.pid)

    def _discard(self, child: Child) -> None:
        pause = self._pauses.note_death(child)
        logger.error(
            "The broker for broadcasts [%s] died (%s), a new one is started%s",
            child.pid,
            child.outcome,
            f" in {pause:g} s" if pause else "",
        )
        child.close()
        self.child, self._is_ready = None, False

    def waitables(self) -> list[Any]:
        return self.child.waitables() if self.child is not None else []

    @property
    def seconds_to_look(self) -> list[float]:
        return [self._pauses.left] if self._pauses.left else []

    def close(self) -> None:
        """When the last worker has ended: nobody would hear it."""
        if self.child is not None:
            self.child.kill()  # it keeps nothing
        if self._has_folder:
            shutil.rmtree(self._chosen_folder(), ignore_errors=True)


def _files_in(folder: Path) -> set[str]:
    with suppress(OSError):
        return {each.name for each in folder.iterdir()}
    return set()


def _check_owner(folder: Path) -> None:
    """Whoever has seen its name may have made another one in its place."""
    found = folder.lstat()
    if not S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder} belongs to somebody else")


def _address(folder: Path) -> str:
    return f"ipc://{folder / 'ws'}"


def serve(pipe: Connection, folder: Path, seconds_after_parent: float) -> None:
    """In a process of its own.

    Signals mean nothing here: terminals and service managers send them to all processes at once,
    while the workers still need it.
    """
    for number in (signal.SIGTERM, *PARENTS_SIGNALS):
        signal.signal(number, signal.SIG_IGN)
    release_signals()
    from django_ws.pubsub.backends.zeromq.broker import Broker  # where pyzmq is installed alone

    broker = Broker(_address(folder))

    def outlive_parent() -> None:
        pipe.poll(None)  # nothing is ever sent: this is its end
        time.sleep(seconds_after_parent)
        broker.stop()

    threading.Thread(target=outlive_parent, name="parent", daemon=True).start()
    pipe.send(Report.READY)
    broker.run()
    shutil.rmtree(folder, ignore_errors=True)  # nobody else is left to do it
