"""The threads in which sync hooks and the ORM run, and their database connections.

Django and asgiref run blocking code through ``sync_to_async``, which takes one thread for
everything or one thread for each "thread-sensitive context". Here all connections share one
context, whose executor hands each connection's calls, one at a time and in order, to whichever
thread of a bounded pool is free. So a slow query holds up its own connection alone, and there
are never more threads, or database connections, than ``WS_SYNC_THREADS``.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary, WeakMethod, WeakSet

from asgiref.sync import AsyncToSync, SyncToAsync, ThreadSensitiveContext
from django.conf import settings
from django.core.signals import setting_changed
from django.db import connections, reset_queries
from django.dispatch import receiver
from django.utils.functional import cached_property

from django_ws import conf
from django_ws.logs.throttled import ThrottledLog

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("django.ws")

LONG_SECONDS = 10.0  # sync work that others wait for is told of in the log after so long

_blocking = ThrottledLog(logger, logging.WARNING, "connections whose sync work waits")
_busy = ThrottledLog(logger, logging.WARNING, "waits for a free thread")

_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()
_kept: WeakSet[Any] = WeakSet()  # all database connections of its threads


def _run_soon(function: Callable[..., None], *args: Any) -> None:
    """In one of the process's threads, made at first use, at most ``WS_SYNC_THREADS`` of them.

    Raises ``RuntimeError`` where there can be no thread: the system refuses one, or the process
    ends. The call may run all the same, later.
    """
    global _pool
    with _pool_lock:  # until it is taken: a setting may have it replaced
        if _pool is None:
            _pool = ThreadPoolExecutor(conf.get().ws_sync_threads, thread_name_prefix="django_ws")
        _pool.submit(function, *args)


@receiver(setting_changed)
def _resize(*, setting: str, **kwargs: Any) -> None:
    global _pool
    if setting == "WS_SYNC_THREADS":
        with _pool_lock:
            old, _pool = _pool, None
        if old is not None:
            old.shutdown(wait=False)


def close_databases() -> None:
    """Close what the threads still keep open. Only when none of them works any more."""
    with _pool_lock:
        kept = list(_kept)
    for connection in kept:
        connection.inc_thread_sharing()
        try:
            connection.close()
        finally:
            connection.dec_thread_sharing()


def clean_databases() -> None:
    """End a unit of work: close this thread's connections that are broken or past their age.

    What a unit has set on the object of a connection (a schema, a tenant) is gone when that is
    closed. Only for the threads of the pool: no test holds a transaction open in one of them.
    """
    if settings.DEBUG:
        reset_queries()
    for connection in connections.all():
        if connection.errors_occurred:
            connection.close()  # is_usable(), which Django would ask, is a guess on SQLite
        connection.close_if_unusable_or_obsolete()
        if connection.connection is None:
            _make_pristine(connection)


class _Pristine(threading.local):
    """The attributes of this thread's connections before anybody has used them."""

    def __init__(self) -> None:
        self.attributes: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()


_pristine = _Pristine()


def _make_pristine(connection: Any) -> None:
    """As it was at first, but for what Django has found out about the server.

    Not a new object in its place: Django's refer to their parts and back.
    """
    attributes = vars(connection)
    at_first = _pristine.attributes.get(connection)
    if at_first is None:
        _pristine.attributes[connection] = dict(attributes)
        with _pool_lock:
            _kept.add(connection)
        return
    if attributes == at_first:  # as after each unit that has not used it
        return
    known = {
        name: value
        for name, value in attributes.items()
        if isinstance(getattr(type(connection), name, None), cached_property)
    }
    attributes.clear()
    attributes.update(at_first | known)


Around = WeakMethod[Callable[[], AbstractContextManager[Any] | None]]


def run_unit(
    around: Around | None, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
) -> R:
    """Run one unit of work in this thread, with its database connections checked around it."""
    clean_databases()
    try:
        return _run_within(around, function, *args, **kwargs)
    finally:
        clean_databases()


def _run_within(
    around: Around | None, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
) -> R:
    try:
        with _unit_of_work(around):
            return function(*args, **kwargs)
    except StopIteration as error:
        # A future cannot carry one: who waits would wait for ever. Coroutines turn it into a
        # RuntimeError as well (PEP 479).
        raise RuntimeError("the sync code raised StopIteration") from error


class InOrder(Executor):
    """One connection's sync work: one call at a time, in order, in whichever thread is free."""

    def __init__(self, path: str = "", around: Around | None = None) -> None:
        self._path = path
        self._around = around
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future[Any], Callable[..., Any], Callable[[], Any]]] = deque()
        self._runner: object | None = None  # of what waits: one at a time
        self._current: Callable[..., Any] | None = None  # what runs now
        self._begun = 0  # calls, in all
        self._is_watched = False  # a timer looks soon whether it still runs

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        future: Future[R] = Future()

        def call() -> R:
            return run_unit(self._around, fn, *args, **kwargs)

        with self._lock:
            self._waiting.append((future, fn, call))
            runner = None
            if self._runner is None:
                runner = self._runner = object()
            watches = runner is None and not self._is_watched
            self._is_watched = self._is_watched or watches
        if runner is not None:
            self._start(runner)
        elif watches:
            self._watch()
        return future

    def _start(self, runner: object) -> None:
        try:
            _run_soon(self._run_next, runner, time.monotonic())
        except RuntimeError as error:
            with self._lock:
                self._runner = None
                refused, self._waiting = self._waiting, deque()
            for future, _, _ in refused:
                if future.set_running_or_notify_cancel():
                    future.set_exception(error)

    def _watch(self) -> None:
        """Something waits for what runs now: look later whether it still does."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # submitted by a thread
            self._is_watched = False
        else:
            loop.call_later(LONG_SECONDS, self._look, self._begun, context=Context())

    def _look(self, begun: int) -> None:
        """``begun``: how many calls had begun at the last look."""
        with self._lock:
            current = self._current if begun == self._begun else None
            waiting = len(self._waiting)
            self._is_watched = waiting > 0
        if not waiting:
            return
        self._watch()
        if current is not None:
            name = _name_of(current)
            _blocking.log(
                (self._path, name),
                "WebSocket %s: %s has run for %g s or longer, and further sync work of the same "
                "connection waits for it: %d. The sync code of one connection runs one call after "
                "the other. Run what takes long in a thread of its own.",
                self._path,
                name,
                LONG_SECONDS,
                waiting,
            )

    def _run_next(self, runner: object, submitted_at: float) -> None:
        with self._lock:
            if self._runner is not runner:  # it was refused, and is called all the same
                return
            future, self._current, call = self._waiting.popleft()
            self._begun += 1
        waited = time.monotonic() - submitted_at
        if waited >= LONG_SECONDS:
            _busy.log(
                "pool",
                "WebSocket %s: sync work has waited %.0f s for a free thread: all %d of "
                "WS_SYNC_THREADS were busy. Raise it, or make the sync code shorter.",
                self._path,
                waited,
                conf.get().ws_sync_threads,
            )
        if future.set_running_or_notify_cancel():
            try:
                result = call()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
        del future, call
        with self._lock:
            self._current = None
            if not self._waiting:
                self._runner = None
                return
        # One call for each place in the pool's queue: a busy connection takes its turn.
        self._start(runner)


def _unit_of_work(around: Around | None) -> AbstractContextManager[Any]:
    """What surrounds one unit. Raises ``TypeError`` for what is no context manager."""
    if around is None:
        return nullcontext()
    function = around()
    if function is None:  # without it this would run as anybody, or as the one before
        raise RuntimeError("the connection has ended, and its handler's unit_of_work() with it")
    manager = function()
    if manager is None:
        return nullcontext()
    if not isinstance(manager, AbstractContextManager):
        if inspect.iscoroutine(manager):
            manager.close()  # it will never run: no warning about that as well
        raise TypeError(
            f"unit_of_work() gave {type(manager).__name__} instead of a context manager or "
            "None. Write def, not async def, and return what `with` takes."
        )
    return manager


def _name_of(function: Any) -> str:
    """The name of the function that asgiref has wrapped for a thread."""
    wrapper = getattr(getattr(function, "func", None), "__self__", None)
    inner = getattr(wrapper, "func", function)
    return str(getattr(inner, "__qualname__", None) or repr(inner))


class SyncWork:
    """The sync work of one connection. Keeps nothing of it alive, as contexts keep this alive.

    ``around`` gives the context manager for each unit of work, or None.
    """

    __slots__ = ("around", "executor", "log_in_recheck", "path")

    def __init__(self, path: str = "") -> None:
        self.path = path  # of the connection, for the log
        self.around: Around | None = None
        self.executor: InOrder | None = None  # made for the first call: most have none
        self.log_in_recheck: Any = None  # where the checks of its log-in need ``around``


_everything: ContextVar[Executor | None] = ContextVar("django_ws_sync_everything", default=None)
_work: ContextVar[SyncWork] = ContextVar("django_ws_sync_work")


class _ByConnection(Executor):
    """Gives each call to the executor of the connection in whose context it was made."""

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        everything = _everything.get()
        if everything is not None:
            own = _work.get(None)  # None in an application that has no connection of ours
            around = own.around if own is not None else None
            return everything.submit(partial(_run_within, around, fn, *args, **kwargs))
        work = _work.get()
        if work.executor is None:
            work.executor = InOrder(work.path, work.around)
        return work.executor.submit(fn, *args, **kwargs)


_context = ThreadSensitiveContext()
SyncToAsync.context_to_thread_executor[_context] = _ByConnection()


def own_sync_work(work: SyncWork) -> None:
    """Count the sync work of the current task, and of the tasks it starts, to ``work``."""
    SyncToAsync.thread_sensitive_context.set(_context)
    _work.set(work)


Place = tuple[Any, Any, SyncWork | None]


def place() -> Place:
    """What else than the pool runs the sync work of this context: in tests, their own thread;
    and the connection's sync work, where something must surround it.
    """
    work = _work.get(None)
    has_own = work is not None and work.around is not None
    return (
        _everything.get(),
        getattr(AsyncToSync.executors, "current", None),
        work if has_own else None,
    )


def context_at(where: Place) -> Context:
    """A context for sync work beside any connection, which runs at the place of the current one."""
    everything, caller, work = where
    # That of a test which runs under async_to_sync() cannot be named otherwise.
    context = Context() if caller is None else copy_context()
    context.run(own_sync_work, work or SyncWork())
    context.run(_everything.set, everything)
    return context


def is_own_sync_work(work: SyncWork) -> bool:
    """Whether the sync work of the current context counts to ``work``."""
    return _work.get(None) is work


def give_everything_to(executor: Executor) -> None:
    """Let ``executor`` run all sync work of the current context, as it stands.

    For tests: the ORM must work in the thread that holds the test's transaction.
    """
    SyncToAsync.thread_sensitive_context.set(_context)
    _everything.set(executor)


def _after_fork() -> None:
    global _pool, _pool_lock
    _pool = None  # its threads stayed with the parent
    _pool_lock = threading.Lock()  # one of them may have held it


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows knows no fork
    os.register_at_fork(after_in_child=_after_fork)
