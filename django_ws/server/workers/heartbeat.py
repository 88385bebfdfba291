"""Shows the supervisor whether the event loop of a worker still turns."""

from __future__ import annotations

from pathlib import Path

from django_ws.server.workers.shared_table import Row

LOOK_SECONDS = 1.0  # between two looks


class Heartbeat:
    """How long one worker's event loop has stood still, by the looks that its parent has taken.

    Time in which the worker was stopped (by SIGSTOP or a debugger) does not count, nor does time
    in which the parent did not look, since the machine slept or was too busy.
    """

    def __init__(self, row: Row) -> None:
        self._row = row
        self._last_beat = 0.0
        self._looked_at = 0.0
        self.still_for = 0.0  # seconds

    def look(self, now: float, pid: int) -> float:
        """To be called about every ``LOOK_SECONDS``; the seconds for which it has stood still."""
        elapsed, self._looked_at = now - self._looked_at, now
        last_beat = self._row.last_beat
        if last_beat != self._last_beat:
            self._last_beat = last_beat
            self.still_for = 0.0
        elif not _is_stopped(pid):
            self.still_for += min(elapsed, 2 * LOOK_SECONDS)
        return self.still_for


def _is_stopped(pid: int) -> bool:
    """Where the system tells it; elsewhere it counts as running."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(") ")[2][0] in "Tt"
