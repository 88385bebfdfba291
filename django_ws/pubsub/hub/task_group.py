"""The background tasks and timers of one hub."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

logger = logging.getLogger("django.ws")


class HubTasks:
    """For one event loop, and its thread only.

    Everything runs in an empty context: whoever happens to be the first to need it would be
    kept alive by its variables.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()

    def later(
        self, seconds: float, function: Callable[..., None], *args: Any
    ) -> asyncio.TimerHandle:
        return self._loop.call_later(seconds, function, *args, context=Context())

    def start(self, function: Callable[..., Awaitable[None]], *args: Any) -> asyncio.Task[None]:
        """Run a coroutine function; what it raises is logged."""
        task = self._loop.create_task(
            self._run(function, *args),
            name=f"django_ws hub {function.__name__}",
            context=Context(),
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run(self, function: Callable[..., Awaitable[None]], *args: Any) -> None:
        try:
            await function(*args)
        except Exception:
            logger.exception("%s failed", function.__name__)

    async def end(self) -> None:
        """Cancel all tasks, and wait for their end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
