"""Tunes Python's garbage collection for many objects that live long.

A full collection looks at every object, and at 10,000 sockets there are millions: it stops the
event loop for 100 milliseconds and more, just when sockets are opened in numbers. So Python's own
rule makes none; ``Collector`` makes them, when there may be something to be found and nobody is
about to connect.
"""

from __future__ import annotations

import gc
from pathlib import Path

# The first two are Python's own up to 3.12: young objects are looked at when 700 more were made
# than freed, middle-aged ones every 10th time. All are every 1000th time of that, and not every
# 10th: in thousands of sockets nothing is to be found.
THRESHOLDS = (700, 10, 1000)

LEAST_ENDED = 1000  # connections and pages
GROWTH = 64 * 1024 * 1024  # bytes
BYTES_EACH = 32 * 1024  # of a connection that is there, generously
URGENT = 4  # times as much is due: then it is not put off any more
PAGE_BYTES = 4096


def tune() -> None:
    """Call it when the application is loaded: what is there now is never looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


class Collector:
    """Makes full collections: for what code leaves in cycles, with each connection or otherwise.

    One is due when as many connections and pages have ended since the last as connections are
    there, and 1,000 at least: so its cost for each of them is bounded. Or when the process has
    grown by half, and by 64 MiB at least, beyond what the connections explain that came. It is
    made as soon as nobody connects for a moment, or when four times as much is due.

    For the event loop's thread only.
    """

    def __init__(self) -> None:
        self._size = _size()
        self._connections = 0
        self._ended = 0
        self._accepted = 0
        self.made = 0

    def look(self, connections: int, accepted: int, pages: int) -> None:
        """To be called about ten times a second: the connections that are there, and all that
        were ever accepted, and pages that were ever served.
        """
        is_quiet = accepted == self._accepted
        self._accepted = accepted
        ended = accepted - connections + pages
        due = max(
            (ended - self._ended) / max(connections, LEAST_ENDED),
            self._growth(connections) / max(self._size / 2, GROWTH),
        )
        if due >= URGENT or (due >= 1 and is_quiet):
            gc.collect()
            self.made += 1
            self._size = _size()
            self._connections = connections
            self._ended = ended

    def _growth(self, connections: int) -> float:
        explained = max(0, connections - self._connections) * BYTES_EACH
        return _size() - self._size - explained


def _size() -> int:
    """The memory of this process, in bytes; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES
    except OSError:
        return 0
