"""The end of a connection: its tasks end, then ``on_close`` runs, all in a limited time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from django_ws import conf
from django_ws.connection.connection import Connection
from django_ws.lifecycle.background_tasks import Background
from django_ws.lifecycle.hook_calls import Calls
from django_ws.logs.printable import printable
from django_ws.logs.throttled import ThrottledLog

logger = logging.getLogger("django.ws.request")

_late = ThrottledLog(logger, logging.WARNING, "hooks and tasks that outlived WS_CLOSE_TIMEOUT")
_overdue = ThrottledLog(logger, logging.ERROR, "hooks that ignored their cancellation")

LAST_SECONDS = 1.0  # what on_close gets at least, and a hook to heed its cancellation


async def clean_up(
    connection: Connection,
    calls: Calls,
    background: Background,
    remaining: Callable[[], float],
    on_close: bool,
) -> None:
    """Await the tasks, then call ``on_close`` where it is asked for, whatever happens.

    ``remaining`` gives the seconds that are left for all of it.
    """
    try:
        await wait_or_log(connection, background.tasks.alive, remaining())
        hooks = background.side - {asyncio.current_task()}
        await wait_or_log(connection, hooks, max(remaining(), LAST_SECONDS))
        for hook in hooks:  # one that has not ended would overlap ``on_close``, and outlive it
            hook.cancel()
    finally:
        if on_close:
            await _call_on_close(connection, calls, background, max(remaining(), LAST_SECONDS))


async def _call_on_close(
    connection: Connection, calls: Calls, background: Background, seconds: float
) -> None:
    on_close = background.start(calls.call("on_close"), "on_close")
    await asyncio.wait([on_close], timeout=seconds)
    if on_close.done():
        return
    if calls.is_sync("on_close"):
        _late.log(
            (connection.path, "on_close in a thread"),
            "WebSocket %s: on_close is still running, or waiting for a thread, %g s after "
            "its turn came; it is left to itself",
            connection.path,
            seconds,
        )
        return
    _late.log(
        (connection.path, "on_close"),
        "WebSocket %s: on_close did not end within WS_CLOSE_TIMEOUT: cancelled",
        connection.path,
    )
    on_close.cancel()
    await asyncio.wait([on_close], timeout=LAST_SECONDS)


async def wait_or_log(connection: Connection, tasks: set[Any], seconds: float) -> None:
    """Wait until the tasks have ended; log those that have not after so many seconds."""
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=seconds)
    if late:
        names = printable(", ".join(sorted(task.get_name() for task in late)))
        _late.log(
            (connection.path, "tasks"),
            "WebSocket %s: still running WS_CLOSE_TIMEOUT after the close, left behind: %s",
            connection.path,
            names,
        )


def log_late(connection: Connection, place: str) -> None:
    """What runs in ``place`` is cancelled now."""
    _late.log(
        (connection.path, place),
        "WebSocket %s: %s did not end within WS_CLOSE_TIMEOUT (%g s) of the close: cancelled",
        connection.path,
        place,
        conf.get().ws_close_timeout,
    )


def log_overdue(connection: Connection, place: str) -> None:
    """It still runs, ``LAST_SECONDS`` after its cancellation."""
    _overdue.log(
        (connection.path, place),
        "WebSocket %s: %s ignores its cancellation; the connection ends without it. "
        "Raise asyncio.CancelledError again after catching it.",
        connection.path,
        place,
    )
