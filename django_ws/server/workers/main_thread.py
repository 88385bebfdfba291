"""Finds out what the main thread of a hanging process is doing.

A thread of the process cannot tell where code keeps the interpreter to itself, as a regular
expression that never ends does. ``faulthandler`` can, in a signal handler of its own. It may crash
the process, so the signal is one that nobody else sends, and is sent to none that is well.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from contextlib import suppress
from multiprocessing.connection import Connection

SIGNAL = signal.SIGRTMIN + 9 if hasattr(signal, "SIGRTMIN") else signal.SIGXFSZ
MOST_BYTES = 64 * 1024  # a pipe holds no more


def tell_on_signal(pipe: Connection) -> None:
    """In the process: from now on it writes its stack into ``pipe`` at each ``SIGNAL``."""
    os.set_blocking(pipe.fileno(), False)  # nobody may read it
    faulthandler.register(SIGNAL, file=pipe.fileno(), all_threads=False, chain=False)


class Stack:
    """The other end: the parent asks, and reads the answer a moment later."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        os.set_blocking(pipe.fileno(), False)

    def ask(self, pid: int) -> None:
        os.kill(pid, SIGNAL)

    def read(self) -> str:
        """What was told since; empty where nothing was."""
        with suppress(BlockingIOError):
            return os.read(self._pipe.fileno(), MOST_BYTES).decode(errors="replace").strip()
        return ""

    def close(self) -> None:
        self._pipe.close()
