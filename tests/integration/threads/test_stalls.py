"""An event loop that stands still is told of, with the line of code on which it does."""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from django_ws.threads import stalls
from django_ws.threads.pool import run_unit
from django_ws.threads.stalls import LOOK_SECONDS, Signs, StallWatch
from tests.asgi import application
from tests.support.redis_server import until

NAME = "django_ws stall watch"
SECONDS = 30.0


class Told(logging.Handler):
    """What is logged about stalls, and an event that the first line sets."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[logging.LogRecord] = []
        self.event = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record)
        self.event.set()

    @property
    def line(self) -> str:
        [record] = self.lines
        assert record.levelname == "WARNING"
        return record.getMessage()


@pytest.fixture
async def told() -> AsyncIterator[Told]:
    handler = Told()
    logger = logging.getLogger("django.ws")
    logger.addHandler(handler)
    loop = asyncio.get_running_loop()
    stop = stalls.watch(loop)
    yield handler
    stop()
    stop()  # again is no harm
    logger.removeHandler(handler)


async def test_the_line_of_the_sites_code_is_named(told: Told) -> None:
    until(lambda: told.lines, "the warning", SECONDS)  # blocks, by time.sleep()
    assert "The event loop has stood still for 1." in told.line
    assert "redis_server.py, line " in told.line
    assert "in until: time.sleep(0.01)" in told.line
    assert "asyncio.sleep()" in told.line


async def test_one_stall_is_told_once_and_the_same_line_is_throttled(told: Told) -> None:
    until(lambda: told.lines, "the warning", SECONDS)
    time.sleep(3 * LOOK_SECONDS)  # noqa: ASYNC251 - the same stall goes on
    assert len(told.lines) == 1
    await asyncio.sleep(2 * LOOK_SECONDS)
    until_next = time.monotonic() + 4 * LOOK_SECONDS
    until(lambda: time.monotonic() > until_next, "another stall", SECONDS)
    assert len(told.lines) == 1


async def test_a_package_is_named_where_none_of_the_sites_code_runs(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "slow_package.py").write_text("def block(event):\n    event.wait(30)\n")
    (folder / "outer_package.py").write_text("def call(function, event):\n    function(event)\n")
    monkeypatch.syspath_prepend(folder)
    slow_package: Any = importlib.import_module("slow_package")
    outer_package: Any = importlib.import_module("outer_package")
    asyncio.get_running_loop().call_soon(outer_package.call, slow_package.block, told.event)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert "slow_package.py, line 2, in block: event.wait(30)" in told.line


async def test_a_process_that_has_too_much_to_do_is_told_of(told: Told) -> None:
    asyncio.get_running_loop().call_soon(run_unit, None, told.event.wait, 30)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert "none of your code runs in it" in told.line
    assert "threading.py" in told.line


async def test_code_without_a_file_is_named_by_its_place(told: Told) -> None:
    scope: dict[str, Any] = {"event": told.event}
    exec("def block():\n    event.wait(30)\n", scope)
    scope["block"]()
    assert told.line.count("<string>, line 2, in block.") == 1


async def test_a_debugger_may_stop_the_loop(told: Told) -> None:
    watching = StallWatch(asyncio.get_running_loop())
    watching.stop()
    scope: dict[str, Any] = {"__name__": "pdb", "tell": watching._tell}
    exec("def interaction():\n    tell(2.0)\n", scope)
    scope["interaction"]()
    assert told.lines == []


async def test_a_thread_that_has_gone_is_not_looked_at(told: Told) -> None:
    watching = StallWatch(asyncio.get_running_loop())
    watching.stop()
    watching._thread_of_loop = 0
    watching._tell(2.0)
    assert told.lines == []


async def test_a_loop_that_answers_is_not_told_of(told: Told) -> None:
    for _ in range(200):
        await asyncio.sleep(0.01)
    assert told.lines == []


def test_looks_that_come_late_themselves_blame_nobody() -> None:
    """The process was stopped, or the machine slept."""
    signs = Signs(100.0)
    signs.asked(100.5)
    assert signs.missing(101.0) == 0
    assert signs.missing(4000.0) == 0
    assert signs.missing(4000.5) == 0
    assert signs.missing(4001.0) == 1.0
    assert signs.missing(4001.5) == 0  # told already
    signs.asked(4002.0)
    assert signs.missing(4002.5) == 0
    assert signs.missing(4003.0) == 1.0


def test_a_loop_that_was_closed_without_a_word_is_watched_no_more() -> None:
    async def watched() -> StallWatch:
        return StallWatch(asyncio.get_running_loop())

    watching = asyncio.run(watched())
    until(lambda: not watching._thread.is_alive(), "the end of the thread", SECONDS)


async def test_the_lifespan_watches_its_event_loop() -> None:
    events: asyncio.Queue[Any] = asyncio.Queue()
    answers: asyncio.Queue[Any] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(application({"type": "lifespan"}, events.get, answers.put))
    events.put_nowait({"type": "lifespan.startup"})
    await answers.get()
    assert loop in stalls._watches
    assert NAME in [thread.name for thread in threading.enumerate()]
    events.put_nowait({"type": "lifespan.shutdown"})
    await answers.get()
    await task
    assert loop not in stalls._watches


def test_a_loop_in_a_thread_of_its_own_may_have_no_code_of_ours_at_all() -> None:
    event = threading.Event()
    thread = threading.Thread(target=event.wait)
    thread.start()
    try:
        frame = sys._current_frames()[thread.ident or 0]
        assert stalls._culprit(frame) is None
    finally:
        event.set()
        thread.join()


def test_frames_end() -> None:
    assert list(stalls._frames(None)) == []
    assert next(stalls._frames(sys._getframe())).f_code.co_name == "test_frames_end"
