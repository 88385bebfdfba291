"""Runs an event loop in a thread, for sync tests."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

from django_ws.testing.server import STOP_SECONDS
from django_ws.threads.pool import give_everything_to

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class CallerThread(Executor):
    """Runs what is submitted in the thread that calls ``run_until``, while it waits there."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        future: Future[R] = Future()

        def call() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args, **kwargs))
                except BaseException as error:
                    future.set_exception(error)

        self._calls.put(call)
        return future

    def run_until(self, future: Future[T]) -> T:
        future.add_done_callback(lambda _: self._calls.put(lambda: None))
        while not future.done():
            self._calls.get()()
        return future.result()


class _Callers(threading.local):
    """One for all clients of a thread: whichever of them it waits for, the others go on."""

    def __init__(self) -> None:
        self.this_thread = CallerThread()


_callers = _Callers()


class LoopThread:
    """One event loop for one test client. Every wait in it has a time limit of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="django_ws test client", daemon=True
        )
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop, and its sync work in this thread meanwhile."""

        caller = _callers.this_thread

        async def run() -> T:
            give_everything_to(caller)
            return await coroutine

        return caller.run_until(asyncio.run_coroutine_threadsafe(run(), self._loop))

    def stop(self) -> None:
        """End what still runs in the loop, the loop and its thread."""
        self.run(self._cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cancel_all(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=STOP_SECONDS)
