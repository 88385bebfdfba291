"""The background tasks of one connection and what follows their end: reports, callbacks."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Coroutine
from typing import Any

from django_ws.calls import Calls, Handler
from django_ws.connection import Connection
from django_ws.exceptions import ConnectionClosed
from django_ws.tasks import StartedTask, TaskCallback, Tasks


class Background:
    """All tasks that work for one connection besides its own. For the event loop's thread only."""

    __slots__ = ("_calls", "_connection", "_handler", "side", "tasks")

    def __init__(self, handler: Handler, connection: Connection, calls: Calls) -> None:
        self._handler = handler
        self._connection = connection
        self._calls = calls
        self.tasks = Tasks(connection.loop, self._ended)  # the user's
        self.side: set[asyncio.Task[None]] = set()  # what follows the end of those
        if connection.closed:
            self.tasks.cancel_all()

    def start(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        """Start a task of the library itself."""
        task = self._connection.loop.create_task(coroutine, name=name)
        self.side.add(task)
        task.add_done_callback(self.side.discard)

    def _ended(self, task_id: str, task: StartedTask, callback: TaskCallback | None) -> None:
        error: BaseException | None
        try:
            error = task.exception()
        except asyncio.CancelledError as cancelled:
            error = cancelled if self._handler.PROCESS_CANCEL_ERRORS else None
        if isinstance(error, ConnectionClosed) and self._connection.closed:
            error = None
        if error is not None:
            self.start(self._failed(task_id, error), f"on_task_error of {task_id!r}")
        if callback is not None:
            self.start(self._call_back(task_id, callback, task), f"callback of {task_id!r}")

    async def _failed(self, task_id: str, error: BaseException) -> None:
        if not isinstance(error, asyncio.CancelledError):
            await self._calls.report(f"task {task_id!r}", error)
        try:
            result = self._handler.on_task_error(error)
            if inspect.isawaitable(result):
                await result
        except Exception as second_error:
            await self._calls.report("on_task_error", second_error)

    async def _call_back(self, task_id: str, callback: TaskCallback, task: StartedTask) -> None:
        try:
            result = callback(task)
            if inspect.iscoroutine(result):
                await result
        except Exception as error:
            await self._calls.report(f"the callback of task {task_id!r}", error)
