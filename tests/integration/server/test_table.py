"""The table that the workers of one server and their parent share."""

from __future__ import annotations

import gc
import os

import pytest

from django_ws.server.workers import shared_table
from django_ws.server.workers.child import Child
from django_ws.server.workers.shared_table import FRESH_SECONDS, Row, Table
from tests.support.redis_server import until


def show(pipe: object, row: Row, connections: int) -> None:
    """In another process."""
    row.show(connections, accepts=True)
    row._table.row(row.number + 1).show(7, accepts=True)
    os._exit(0)


def test_another_process_writes_what_this_one_reads() -> None:
    shared = Table()
    mine, others, _ = shared.take(), shared.take(), shared.take()
    mine.show(3, accepts=True)
    assert mine.fewest_elsewhere() is None
    child = Child("shows", show, others, 5)
    until(lambda: not child.is_alive, "its end")
    assert child.outcome == "exit code 0"
    child.close()
    assert mine.fewest_elsewhere() == 5
    assert others.last_beat > 0


def test_it_leaves_no_descriptor_open() -> None:
    gc.collect()  # what earlier tests have left is closed now
    before = len(os.listdir("/proc/self/fd"))
    row = Table().take()
    assert len(os.listdir("/proc/self/fd")) > before
    del row
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_who_does_not_accept_or_stands_still_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = Table()
    mine, second, third = shared.take(), shared.take(), shared.take()
    now = 1000.0
    monkeypatch.setattr("django_ws.server.workers.shared_table.time.monotonic", lambda: now)
    second.show(5, accepts=True)
    third.show(2, accepts=True)
    assert mine.fewest_elsewhere() == 2
    third.show(2, accepts=False)
    assert mine.fewest_elsewhere() == 5
    now += FRESH_SECONDS + 0.01
    assert mine.fewest_elsewhere() is None
    third.show(0, accepts=True)
    assert mine.fewest_elsewhere() == 0
    shared.give_back(third)
    assert mine.fewest_elsewhere() is None


def test_rows_are_given_again() -> None:
    shared = Table()
    first, second = shared.take(), shared.take()
    first.show(5, accepts=True)
    shared.give_back(first)
    again = shared.take()
    assert (again.number, again.last_beat) == (first.number, 0.0)
    assert second.number != again.number
    shared.give_back(again)
    shared.give_back(second)
    assert shared.take().number == first.number


def test_there_are_enough_rows_but_not_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_table, "ROWS", 3)
    shared = Table()
    shared.take()
    shared.take()
    with pytest.raises(OSError, match="there are 2 workers already"):
        shared.take()
