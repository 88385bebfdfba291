"""Runs methods such as ``send()`` from any thread. Each returns an awaitable.

In the connection's event loop a call starts at once and returns an awaitable. In another
thread (a sync hook, for example) it blocks until done, for a bounded time. In another event
loop it returns an awaitable for that loop.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Generator, Sequence
from concurrent.futures import Future
from contextvars import Context
from typing import Any, Generic, TypeVar

from django_ws import conf
from django_ws.exceptions import ConnectionClosed, SendTimeout

T = TypeVar("T")


# Python quotes it in the error of ``asyncio.create_task(self.send(...))``, which takes coroutines.
SHOWN = "<an action of the connection, which has started: it needs no task>"


class Action(Awaitable[T], Generic[T]):
    """What an acting method gives. It may be awaited or not, several times too."""

    __slots__ = ()

    def __repr__(self) -> str:
        return SHOWN


class Done(Action[T], Generic[T]):
    """An action that was over when the call returned; awaiting it costs no turn of the loop."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value

    def __await__(self) -> Generator[Any, None, T]:
        return self.value
        yield  # makes this a generator


_done_in: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None


class DoneFuture(asyncio.Future[None]):
    """An action that was over when the call returned, too."""

    def __repr__(self) -> str:
        return SHOWN


def done(loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
    """A future of this loop that is done: the cheapest thing to await."""
    global _done_in
    known = _done_in  # another thread may set it meanwhile
    if known is not None and known[0] is loop:
        return known[1]
    future = DoneFuture(loop=loop)
    future.set_result(None)
    _done_in = loop, future
    return future


# asyncio's functions are slow before they were rewritten in C for Python 3.12, and to ask for
# the running loop (in order to know the thread) took a system call before.
if sys.version_info >= (3, 12):  # pragma: no cover - coverage is measured on 3.11
    from asyncio import current_task

    current_task_of = current_task

    async def own_context() -> Context:
        """The context of the running task; not a copy."""
        task = current_task()
        assert task is not None
        return task.get_context()
else:
    from asyncio.tasks import _current_tasks  # type: ignore[attr-defined]

    current_task_of = _current_tasks.get

    def current_task() -> asyncio.Task[Any] | None:
        """The task that runs. Raises ``RuntimeError`` outside an event loop."""
        task: asyncio.Task[Any] | None = _current_tasks.get(asyncio.get_running_loop())
        return task

    async def own_context() -> Context:
        """The context of the running task; not a copy. Costs one turn of the event loop."""
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        found: list[Context] = []

        def look() -> None:
            if not waiter.done():  # by a cancellation
                [(_, context)] = waiter._callbacks  # the task's, which waits
                found.append(context)
                waiter.set_result(None)

        loop.call_soon(look, context=Context())
        await waiter
        return found[0]


class Failed(Action[Any]):
    """An action that had failed when the call returned: told to whoever awaits it."""

    __slots__ = ("_error",)

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            raise self._error.with_traceback(None)  # one error may be raised to many
        finally:
            del self  # otherwise error, traceback, this frame and this object form a cycle
        yield  # makes this a generator


class Pending(Action[None]):
    """An action under way. Cancelling who awaits it does not cancel the action."""

    __slots__ = ("_error", "_then", "_waiters", "done")

    def __init__(self) -> None:
        self.done = False
        self._error: Exception | None = None
        self._then: Callable[[], None] | None = None
        # A future only for those who wait, so that nothing is reported as never retrieved.
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits now."""
        return any(not waiter.done() for waiter in self._waiters)

    def then(self, function: Callable[[], None]) -> None:
        """Call it when the action has ended well, and before anything else; the last one counts."""
        self._then = function

    def finish(self, error: Exception | None = None) -> None:
        """Tell the outcome. The first call counts."""
        if self.done:
            return
        self.done = True
        self._error = error
        then, self._then = self._then, None
        if then is not None and error is None:
            then()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def __await__(self) -> Generator[Any, None, None]:
        if not self.done:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            yield from waiter
        if self._error is not None:
            try:
                raise self._error.with_traceback(None)
            finally:
                del self  # as in ``Failed``


class All(Action[None]):
    """Several actions: over when all of them are. Raises the first error of them."""

    __slots__ = ("_actions",)

    def __init__(self, actions: Sequence[Awaitable[None]]) -> None:
        self._actions = actions

    def __await__(self) -> Generator[Any, None, None]:
        actions = iter(self._actions)
        del self  # as in ``Failed``
        for action in actions:
            try:
                yield from action.__await__()
            finally:
                del action


class Elsewhere(Action[T], Generic[T]):
    """An action in another event loop. Cancelling who awaits it does not cancel the action."""

    __slots__ = ("_result",)

    def __init__(self, result: Future[T]) -> None:
        self._result = result

    def __await__(self) -> Generator[Any, None, T]:
        return asyncio.shield(asyncio.wrap_future(self._result)).__await__()


CROWDED_SECONDS = 0.5  # to wait for a client that does not read, where many threads do

_lock = threading.Lock()
_waiting_for_clients = 0  # threads, in this process


def act(
    loop: asyncio.AbstractEventLoop,
    name: str,
    start: Callable[[], Awaitable[T]],
    is_behind: Callable[[], bool] | None = None,
) -> Awaitable[T]:
    """Start an action in ``loop`` from wherever this is called.

    ``start`` is called once, in the loop. In a thread without an event loop this blocks until
    the action is over, at most ``WS_SEND_TIMEOUT``, and raises ``SendTimeout`` (the action goes
    on) after that, or whatever the action raised. ``is_behind``: whether it waits for a client
    that does not read. At most a quarter of ``WS_SYNC_THREADS`` wait so long for such clients;
    further threads wait half a second.
    """
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        result = _submit(loop, start)
        seconds = conf.get().ws_send_timeout
        try:
            if is_behind is None:
                return Done(result.result(seconds))
            return Done(_wait_for_client(result, name, seconds, is_behind))
        except SendTimeout:
            raise
        except TimeoutError:
            raise SendTimeout(name, seconds) from None
        finally:
            del result  # as in ``Failed``
    if running is loop:
        return start()
    return Elsewhere(_submit(loop, start))


def _may_wait() -> int:
    """Threads, for clients that do not read, as long as they like."""
    return max(1, conf.get().ws_sync_threads // 4)


def _wait_for_client(
    result: Future[T], name: str, seconds: float, is_behind: Callable[[], bool]
) -> T:
    global _waiting_for_clients
    with _lock:
        _waiting_for_clients += 1
        is_crowded = _waiting_for_clients > _may_wait()
    try:
        if is_crowded and seconds > CROWDED_SECONDS:
            try:
                return result.result(CROWDED_SECONDS)
            except TimeoutError:
                if is_behind():
                    raise SendTimeout(name, CROWDED_SECONDS) from None
                seconds -= CROWDED_SECONDS
        return result.result(seconds)
    finally:
        del result  # as in ``Failed``
        with _lock:
            _waiting_for_clients -= 1


def _after_fork() -> None:
    global _lock, _waiting_for_clients
    _lock, _waiting_for_clients = threading.Lock(), 0  # threads may have held it, and waited


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows knows no fork
    os.register_at_fork(after_in_child=_after_fork)


def _submit(loop: asyncio.AbstractEventLoop, start: Callable[[], Awaitable[T]]) -> Future[T]:
    async def started() -> T:
        return await start()

    coroutine = started()
    try:
        return asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:  # the loop has been closed, and every connection in it ended
        coroutine.close()
        gone: Future[T] = Future()
        gone.set_exception(ConnectionClosed())
        return gone
