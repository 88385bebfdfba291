"""A table in shared memory: what workers show each other and their supervisor.

Each worker has a row, and writes it alone: how many connections it has, and when its event loop
turned last. Whoever reads it asks nobody and waits for nobody.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import time
import weakref
from multiprocessing import reduction
from typing import Any

ROWS = 4096
FIELDS = 2  # of a row, each a double: connections, and the time of the last turn
USED = 0  # the first row is not a worker's: it has the number of rows that may be in use
NOT_ACCEPTING = -1.0
FRESH_SECONDS = 0.5  # a worker that has not shown itself for so long is not counted upon


class Table:
    """Made by the parent, which gives the rows; ``Child`` passes it on to a new process."""

    def __init__(self, file: int | None = None) -> None:
        self._file = _new_file() if file is None else file
        weakref.finalize(self, os.close, self._file)
        self._numbers = memoryview(mmap.mmap(self._file, ROWS * FIELDS * 8)).cast("d")
        self._taken: set[int] = set()

    def __reduce__(self) -> Any:
        """For a process that is being started; it has the same memory then."""
        return _opened, (reduction.DupFd(self._file),)

    def take(self) -> Row:
        """A row for a new worker. Raises ``OSError`` where there are no more."""
        for number in range(1, ROWS):
            if number not in self._taken:
                self._taken.add(number)
                self._numbers[USED] = max(self._taken) + 1
                row = self.row(number)
                row.clear()
                return row
        raise OSError(f"there are {ROWS - 1} workers already")

    def give_back(self, row: Row) -> None:
        """The worker has ended."""
        row.clear()
        self._taken.remove(row.number)
        self._numbers[USED] = max(self._taken, default=0) + 1

    def row(self, number: int) -> Row:
        return Row(self, self._numbers, number)


class Row:
    """One worker's row."""

    def __init__(self, table: Table, numbers: memoryview[float], number: int) -> None:
        self.number = number
        self._table = table
        self._numbers = numbers
        self._start = number * FIELDS

    def __reduce__(self) -> Any:
        return Table.row, (self._table, self.number)

    @property
    def last_beat(self) -> float:
        """When its event loop turned last, on the monotonic clock; 0.0 before the first time."""
        return self._numbers[self._start + 1]

    def show(self, connections: int, *, accepts: bool) -> None:
        """To be called by the worker's event loop, several times a second."""
        self._numbers[self._start] = connections if accepts else NOT_ACCEPTING
        self._numbers[self._start + 1] = time.monotonic()

    def clear(self) -> None:
        self._numbers[self._start] = NOT_ACCEPTING
        self._numbers[self._start + 1] = 0.0

    def fewest_elsewhere(self) -> float | None:
        """The connections of the other worker that has the fewest.

        Those that accept none, or whose event loop is busy or stopped, do not count. None where
        there is no other.
        """
        numbers = self._numbers
        fewest: float | None = None
        since = time.monotonic() - FRESH_SECONDS
        for start in range(FIELDS, int(numbers[USED]) * FIELDS, FIELDS):
            if (
                start != self._start
                and numbers[start + 1] >= since
                and (count := numbers[start]) >= 0
                and (fewest is None or count < fewest)
            ):
                fewest = count
        return fewest


def _new_file() -> int:
    """Of no name: it is gone with the last process that has it."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("django_ws workers")
    else:  # pragma: no cover - other systems than Linux
        file, name = tempfile.mkstemp()
        os.unlink(name)
    os.truncate(file, ROWS * FIELDS * 8)
    return file


def _opened(file: Any) -> Table:
    return Table(file.detach())
