"""Looks in batches whether log-ins still hold: one query for many connections."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Collection, Sequence
from contextvars import Context
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from django_ws import conf
from django_ws.exceptions import LoginCheckError
from django_ws.frames import without_frames
from django_ws.sync import Place, context_at, place

logger = logging.getLogger("django.ws")

MAX_BATCH = 500


class Watched(Protocol):
    """A log-in, as the watch sees it."""

    def end(self) -> None: ...

    def expect_expiry(self) -> None: ...

    @classmethod
    async def ended(cls, logins: Sequence[Any]) -> Collection[Any]: ...


class Watch:
    """The log-ins of one event loop. For its thread only.

    One task looks at what is due, and takes together what has come meanwhile: the more
    handshakes there are, the larger are the batches. Every ``WS_AUTH_RECHECK`` seconds all
    log-ins are due.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, context: Context) -> None:
        self._loop = loop
        self._context = context  # of no connection: it outlives them
        self._all: dict[Watched, None] = {}
        self._due: dict[Watched, asyncio.Future[bool] | None] = {}
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def add(self, login: Watched) -> None:
        self._all[login] = None
        if self._timer is None:
            self._set_timer()

    def remove(self, login: Watched) -> None:
        self._all.pop(login, None)
        waiter = self._due.pop(login, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(False)
        if not self._all and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def check(self, login: Watched) -> None:
        """Look soon; end it if it has ended. A failure is logged, and it stays."""
        if login in self._all:
            self._due.setdefault(login, None)
            self._start()

    def holds(self, login: Watched) -> Awaitable[bool]:
        """Look soon, and tell. Awaiting raises ``LoginCheckError`` where that fails."""
        waiter: asyncio.Future[bool] = self._loop.create_future()
        self._due[login] = waiter
        self._start()
        return waiter

    def _set_timer(self) -> None:
        self._timer = self._loop.call_later(
            conf.get().ws_auth_recheck, self._check_all, context=self._context
        )

    def _check_all(self) -> None:
        for login in self._all:
            self._due.setdefault(login, None)
        self._set_timer()
        self._start()

    def _start(self) -> None:
        if self._task is None:
            # Not loop.create_task(): an eager factory would run it before it is known here.
            self._task = asyncio.Task(
                self._look(), loop=self._loop, name="django_ws log-ins", context=self._context
            )

    async def _look(self) -> None:
        try:
            await asyncio.sleep(0)  # with all that come in this turn of the loop
            while self._due:
                due, self._due = self._due, {}
                logins = list(due)
                for login in logins[MAX_BATCH:]:
                    self._due[login] = due.pop(login)
                await self._look_at(due)
        finally:
            self._task = None

    async def _look_at(self, due: dict[Watched, asyncio.Future[bool] | None]) -> None:
        by_class: dict[type[Watched], list[Watched]] = {}
        for login in due:
            by_class.setdefault(type(login), []).append(login)
        for of_class, logins in by_class.items():
            try:
                ended = set(await of_class.ended(logins))
            except Exception as error:
                # Those of all logins together hold the keys of each.
                self._failed(without_frames(error), [due[login] for login in logins])
                continue
            for login in logins:
                self._answer(login, login not in ended, due[login])

    def _answer(self, login: Watched, holds: bool, waiter: asyncio.Future[bool] | None) -> None:
        if waiter is not None:
            if not waiter.done():  # who waited may have been cancelled
                waiter.set_result(holds)
        elif not holds:
            login.end()
        if holds and login in self._all:
            login.expect_expiry()

    def _failed(self, error: Exception, waiters: list[asyncio.Future[bool] | None]) -> None:
        for waiter in waiters:
            if waiter is not None and not waiter.done():
                failure = LoginCheckError(error)  # its own: each gets other frames
                failure.__cause__ = error
                waiter.set_exception(failure)
        staying = waiters.count(None)
        if staying:
            logger.error(
                "%d log-ins could not be checked, and stay until the next check (WS_AUTH_RECHECK, "
                "%g s): %r",
                staying,
                conf.get().ws_auth_recheck,
                error,
            )


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Place, Watch]] = WeakKeyDictionary()


def watch_here() -> Watch:
    """The watch of the running event loop, whose database work is done where that of the
    current context is: outside tests there is one.
    """
    loop = asyncio.get_running_loop()
    where = place()
    watches = _watches.setdefault(loop, {})
    watch = watches.get(where)
    if watch is None:
        watch = watches[where] = Watch(loop, context_at(where))
    return watch
