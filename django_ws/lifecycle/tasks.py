"""The named background tasks of one connection, and the sleep loop."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Any

from django_ws.exceptions import ConnectionClosed, MessageDropped
from django_ws.threads.any_thread import Action, DoneFuture

TASK_DUPLICATE_STARTED = "task-duplicate-started"
TASK_WS_CLOSED = "task-websocket-closed"

TaskFunction = Callable[..., Coroutine[Any, Any, Any]]
TaskCallback = Callable[["StartedTask"], Any]


class StartedTask(asyncio.Task[Any]):
    """A background task of a connection.

    An ``asyncio.Task`` but for one thing: awaiting it confirms that it was started and gives
    the task itself, at once, because ``await self.start_task(...)`` in a hook must not wait for
    the task's end. To wait for the end use ``asyncio.wait([task])``, or a callback; not
    ``asyncio.wait_for(task)``, which awaits the task.
    """

    def __await__(self) -> Generator[Any, None, StartedTask]:
        return self
        yield  # makes this a generator

    __iter__ = __await__  # what C code uses for a Task


class Ended(Action[None]):
    """Awaiting it waits until a task has ended, however it ends."""

    __slots__ = ("_task",)

    def __init__(self, task: StartedTask) -> None:
        self._task = task

    def __await__(self) -> Generator[Any, None, None]:
        yield from asyncio.wait([self._task]).__await__()


class Tasks:
    """Starts, finds and ends the tasks. For the event loop's thread only."""

    __slots__ = ("_ended", "_loop", "alive", "running")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ended = False
        self.running: dict[str, StartedTask] = {}
        self.alive: set[StartedTask] = set()  # also those cancelled that have not ended yet

    def start(
        self,
        task_id: str,
        function: TaskFunction | Coroutine[Any, Any, Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        on_end: Callable[[StartedTask], None],
        context: Context | None,
    ) -> StartedTask:
        """Start a task; a running namesake is cancelled with ``TASK_DUPLICATE_STARTED``.

        ``on_end(task)`` is called in the loop when the task has ended, however it ended. The
        task runs in ``context``, or in a copy of the current one.
        """
        if self._ended:
            raise too_late(task_id, function)
        coroutine = _coroutine(task_id, function, args, kwargs)
        namesake = self.running.get(task_id)
        if namesake is not None:
            namesake.cancel(TASK_DUPLICATE_STARTED)
        task = StartedTask(coroutine, loop=self._loop, name=task_id, context=context)
        self.running[task_id] = task
        self.alive.add(task)

        def ended(_: asyncio.Task[Any]) -> None:
            coroutine.close()  # cancelled before its first step, it would warn
            self.alive.discard(task)
            if self.running.get(task_id) is task:
                del self.running[task_id]
            on_end(task)

        task.add_done_callback(ended)
        return task

    def cancel(self, task_id: str, message: str | None = None) -> StartedTask | None:
        """Cancel one task and give it, or None if no such task runs."""
        task = self.running.get(task_id)
        if task is not None:
            task.cancel(message)
        return task

    def cancel_all(self) -> None:
        """Cancel all with ``TASK_WS_CLOSED``; from now on none can be started."""
        self._ended = True
        for task in self.running.values():
            task.cancel(TASK_WS_CLOSED)


def too_late(task_id: str, function: TaskFunction | Coroutine[Any, Any, Any]) -> ConnectionClosed:
    """The error of a start after the close."""
    if inspect.iscoroutine(function):
        function.close()  # it will never run: no warning about that as well
    return ConnectionClosed(reason=f"task {task_id!r} was not started")


def _coroutine(
    task_id: str,
    function: TaskFunction | Coroutine[Any, Any, Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Coroutine[Any, Any, Any]:
    if inspect.iscoroutine(function):
        if args or kwargs:
            function.close()
            raise TypeError(
                f"start_task({task_id!r}): args and kwargs go with a coroutine function, "
                "not with a coroutine object"
            )
        return function
    coroutine = function(*args, **kwargs) if callable(function) else function
    if isinstance(coroutine, Action | DoneFuture):
        raise TypeError(f"start_task({task_id!r}): {function!r} gave {coroutine!r}")
    if not inspect.iscoroutine(coroutine):
        raise TypeError(
            f"start_task({task_id!r}): {function!r} is not a coroutine function. Write it with "
            "'async def', or wrap it in sync_to_async()."
        )
    return coroutine


async def sleep_loop(
    function: Callable[..., Awaitable[Any]],
    seconds: float,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    closed: asyncio.Future[None],
) -> None:
    """Call ``function`` on a fixed grid of ``seconds`` until ``closed`` is done.

    A call that takes longer than a period makes the grid points meanwhile pass unused.
    """
    loop = asyncio.get_running_loop()
    start = loop.time()
    beat = 1
    while True:
        await asyncio.wait([closed], timeout=max(0.0, start + beat * seconds - loop.time()))
        if closed.done():
            return
        with suppress(MessageDropped):  # counted and warned of already; the next may have room
            await function(*args, **kwargs)
        # The next point that lies ahead; never the same one twice.
        beat = max(beat + 1, math.ceil((loop.time() - start) / seconds))
