"""Bounded threads for sync hooks and the ORM, and the hygiene of their database connections.

Django and asgiref run blocking code through ``sync_to_async``, which takes one thread for
everything or one thread for each "thread-sensitive context". Here all connections share one
context, whose executor hands each connection's calls, one at a time and in order, to whichever
thread of a bounded pool is free. So a slow query holds up its own connection alone, and there
are never more threads, or database connections, than ``WS_SYNC_THREADS``.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextvars import Context, ContextVar, copy_context
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import AsyncToSync, SyncToAsync, ThreadSensitiveContext
from django.conf import settings
from django.core.signals import setting_changed
from django.db import connections, reset_queries
from django.dispatch import receiver

from django_ws import conf

P = ParamSpec("P")
R = TypeVar("R")


_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


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


def clean_databases() -> None:
    """End a unit of work: close this thread's connections that are broken or past their age.

    Only for the threads of the pool: no test holds a transaction open in one of them.
    """
    if settings.DEBUG:
        reset_queries()
    for connection in connections.all(initialized_only=True):
        if connection.errors_occurred:
            connection.close()  # is_usable(), which Django would ask, is a guess on SQLite
        connection.close_if_unusable_or_obsolete()


def run_unit(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run one unit of work in this thread, with its database connections checked around it."""
    clean_databases()
    try:
        return function(*args, **kwargs)
    except StopIteration as error:
        # A future cannot carry one: who waits would wait for ever. Coroutines turn it into a
        # RuntimeError as well (PEP 479).
        raise RuntimeError("the sync code raised StopIteration") from error
    finally:
        clean_databases()


class InOrder(Executor):
    """One connection's sync work: one call at a time, in order, in whichever thread is free."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._runner: object | None = None  # of what waits: one at a time

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        future: Future[R] = Future()
        with self._lock:
            self._waiting.append((future, lambda: run_unit(fn, *args, **kwargs)))
            if self._runner is not None:
                return future
            runner = self._runner = object()
        self._start(runner)
        return future

    def _start(self, runner: object) -> None:
        try:
            _run_soon(self._run_next, runner)
        except RuntimeError as error:
            with self._lock:
                self._runner = None
                refused, self._waiting = self._waiting, deque()
            for future, _ in refused:
                if future.set_running_or_notify_cancel():
                    future.set_exception(error)

    def _run_next(self, runner: object) -> None:
        with self._lock:
            if self._runner is not runner:  # it was refused, and is called all the same
                return
            future, call = self._waiting.popleft()
        if future.set_running_or_notify_cancel():
            try:
                result = call()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
        del future, call
        with self._lock:
            if not self._waiting:
                self._runner = None
                return
        # One call for each place in the pool's queue: a busy connection takes its turn.
        self._start(runner)


class SyncWork:
    """The sync work of one connection. Refers to nothing of it: contexts keep this alive."""

    __slots__ = ("executor",)

    def __init__(self) -> None:
        self.executor: InOrder | None = None  # made for the first call: most have none


_everything: ContextVar[Executor | None] = ContextVar("django_ws_sync_everything", default=None)
_work: ContextVar[SyncWork] = ContextVar("django_ws_sync_work")


class _ByConnection(Executor):
    """Gives each call to the executor of the connection in whose context it was made."""

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        everything = _everything.get()
        if everything is not None:
            return everything.submit(fn, *args, **kwargs)
        work = _work.get()
        if work.executor is None:
            work.executor = InOrder()
        return work.executor.submit(fn, *args, **kwargs)


_context = ThreadSensitiveContext()
SyncToAsync.context_to_thread_executor[_context] = _ByConnection()


def own_sync_work(work: SyncWork) -> None:
    """Count the sync work of the current task, and of the tasks it starts, to ``work``."""
    SyncToAsync.thread_sensitive_context.set(_context)
    _work.set(work)


Place = tuple[Any, Any]


def place() -> Place:
    """What else than the pool runs the sync work of this context: in tests, their own thread."""
    return _everything.get(), getattr(AsyncToSync.executors, "current", None)


def context_at(where: Place) -> Context:
    """A context for sync work of no connection, which runs at the place of the current one."""
    everything, caller = where
    # That of a test which runs under async_to_sync() cannot be named otherwise.
    context = Context() if caller is None else copy_context()
    context.run(own_sync_work, SyncWork())
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
