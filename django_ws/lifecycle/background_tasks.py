"""The background tasks of one connection: callbacks, and reports of their exceptions."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Coroutine, Mapping, Sequence
from contextvars import Context, copy_context
from functools import partial
from threading import get_ident
from typing import Any

from django_ws.connection.connection import Connection
from django_ws.exceptions import BroadcastError, ConnectionClosed, MessageDropped
from django_ws.lifecycle.hook_calls import Calls, Handler
from django_ws.lifecycle.tasks import StartedTask, TaskCallback, TaskFunction, Tasks
from django_ws.threads.pool import is_own_sync_work


class Background:
    """All tasks that work for one connection besides its own. For the event loop's thread only."""

    __slots__ = ("_calls", "_connection", "_handler", "side", "tasks")

    def __init__(self, handler: Handler, connection: Connection, calls: Calls) -> None:
        self._handler = handler
        self._connection = connection
        self._calls = calls
        self.tasks = Tasks(connection.loop)  # the user's
        self.side: set[asyncio.Task[None]] = set()  # what follows the end of those
        if connection.closed:
            self.tasks.cancel_all()

    def start_task(
        self,
        task_id: str,
        function: TaskFunction | Coroutine[Any, Any, Any],
        callback: TaskCallback | None,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
    ) -> StartedTask:
        """Start a task of the user's."""
        on_end = partial(self._ended, task_id, callback)
        return self.tasks.start(
            task_id, function, args or (), kwargs or {}, on_end, self._own_context()
        )

    def start(
        self, coroutine: Coroutine[Any, Any, None], name: str, *, is_alone: bool = True
    ) -> asyncio.Task[None]:
        """Start a task of the library itself, for a hook: in the connection's own context.

        In a copy of it where the hook is not alone, but may overlap another one.
        """
        context = self._calls.context
        if context is None or not is_alone:
            context = self._own_context()
        # Not loop.create_task(): an eager factory would run it inside of another hook's step.
        task = asyncio.Task(coroutine, loop=self._connection.loop, name=name, context=context)
        self.side.add(task)
        task.add_done_callback(self.side.discard)
        return task

    def _own_context(self) -> Context:
        """A copy of the current context where that belongs to this connection.

        Called from elsewhere (another connection, a timer, a thread of the user's), a task gets a
        copy of the connection's own context: its sync work counts to this connection.
        """
        own = self._calls.context or self._connection.outbound.context
        if not is_own_sync_work(self._connection.sync_work):
            return own.copy()
        context = copy_context()
        # Called from a sync hook, this has the variables of its thread. What Django keeps in
        # ``asgiref.local.Local`` (the language, the time zone) is hidden from all other threads.
        for variable, value in context.items():
            is_hidden = getattr(value, "thread_id", get_ident()) != get_ident()
            if is_hidden and type(value).__module__ == "asgiref.local" and variable in own:
                context.run(variable.set, own[variable])
        return context

    def _ended(self, task_id: str, callback: TaskCallback | None, task: StartedTask) -> None:
        error: BaseException | None
        try:
            error = task.exception()
        except asyncio.CancelledError as cancelled:
            error = cancelled if self._handler.PROCESS_CANCEL_ERRORS else None
        if (isinstance(error, ConnectionClosed) and self._connection.gone) or isinstance(
            error, MessageDropped
        ):
            error = None
        elif self._calls.is_slow_client(error):
            self._connection.overflowed()
            error = None
        if error is not None:
            self.start(self._failed(task_id, error), f"on_task_error of {task_id!r}")
        if callback is not None:
            self.start(self._call_back(task_id, callback, task), f"callback of {task_id!r}")

    async def _failed(self, task_id: str, error: BaseException) -> None:
        if isinstance(error, BroadcastError):
            self._calls.tell_not_broadcast(f"task {task_id!r}", error)
        elif not isinstance(error, asyncio.CancelledError):
            await self._calls.report(f"task {task_id!r}", error)
        try:
            result = self._handler.on_task_error(error)
            if inspect.isawaitable(result):
                await result
        except Exception as second_error:
            await self._calls.failed_in_task("on_task_error", second_error)

    async def _call_back(self, task_id: str, callback: TaskCallback, task: StartedTask) -> None:
        try:
            result = callback(task)
            if inspect.iscoroutine(result):
                await result
        except Exception as error:
            await self._calls.report(f"the callback of task {task_id!r}", error)
