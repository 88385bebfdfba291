"""Checks many log-ins of one class together, each within a time limit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Container, Coroutine, Sequence
from contextvars import Context
from typing import Any, Protocol, TypeVar

from django_ws import conf
from django_ws.exceptions import LoginCheckError
from django_ws.logs.counted import counted
from django_ws.logs.throttled import ThrottledLog
from django_ws.logs.traceback_text import without_frames

T = TypeVar("T")

logger = logging.getLogger("django.ws")

_unchecked = ThrottledLog(logger, logging.ERROR, "checks of log-ins that failed")

MAX_BATCH = 500

Waiter = asyncio.Future[bool] | None


class Checkable(Protocol):
    """A log-in, as the watch sees it.

    ``failure`` is why ``ended`` could not tell of this one, though of the others.
    """

    failure: Exception | None

    def end(self) -> None: ...

    def expect_expiry(self) -> None: ...

    @classmethod
    async def ended(cls, logins: Sequence[Any]) -> Collection[Any]: ...


class RecheckBatch:
    """The log-ins of one class that are due. For the event loop's thread only.

    One task looks at them, and takes together what has come meanwhile: the more handshakes
    there are, the larger are the batches. A look that takes longer than ``WS_CONNECT_TIMEOUT``
    is cancelled and has failed. While one heeds no cancellation (it hangs in a thread,
    perhaps), the next ones wait as long for it, and fail.
    """

    def __init__(
        self, kind: type[Checkable], watched: Container[Checkable], context: Context
    ) -> None:
        self._kind = kind
        self._watched = watched
        self._context = context
        self._due: dict[Checkable, Waiter] = {}
        self._task: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[set[Checkable]] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether all that was due has been looked at, and nothing hangs."""
        return not self._due and self._task is None and self._asking is None

    def add(self, login: Checkable, waiter: Waiter) -> None:
        """With a waiter it is answered there; without, it is ended if it has ended."""
        if waiter is not None:
            self._due[login] = waiter
        else:
            self._due.setdefault(login, None)
        if self._task is None:
            self._task = self._start(self._look())

    def remove(self, login: Checkable) -> None:
        waiter = self._due.pop(login, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(False)

    def _start(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        # Not loop.create_task(): an eager factory would run it before it is known here.
        loop = asyncio.get_running_loop()
        return asyncio.Task(coroutine, loop=loop, name="django_ws log-ins", context=self._context)

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

    async def _look_at(self, due: dict[Checkable, Waiter]) -> None:
        seconds = conf.get().ws_connect_timeout
        if self._asking is not None:  # the last one hangs
            await asyncio.wait([self._asking], timeout=seconds)
        if self._asking is None:
            asking = self._asking = self._start(self._ended(list(due)))
            asking.add_done_callback(self._has_asked)
            await asyncio.wait([asking], timeout=seconds)
            if asking.done():
                self._tell(asking, due)
                return
            asking.cancel()
        name = self._kind.__qualname__
        self._failed(TimeoutError(f"{name}.ended() takes longer than {seconds:g} s"), due)

    async def _ended(self, logins: Sequence[Checkable]) -> set[Checkable]:
        return set(await self._kind.ended(logins))

    def _has_asked(self, asking: asyncio.Task[set[Checkable]]) -> None:
        self._asking = None
        if not asking.cancelled():
            asking.exception()  # of one that was given up: nobody else asks for it

    def _tell(self, asked: asyncio.Task[set[Checkable]], due: dict[Checkable, Waiter]) -> None:
        if asked.cancelled():
            self._failed(RuntimeError(f"{self._kind.__qualname__}.ended() was cancelled"), due)
        elif isinstance(error := asked.exception(), Exception):
            # Those of all log-ins together hold the keys of each.
            self._failed(without_frames(error), due)
        else:
            self._answer(asked.result(), due)

    def _answer(self, ended: Container[Checkable], due: dict[Checkable, Waiter]) -> None:
        for login, waiter in due.items():
            failure, login.failure = login.failure, None
            if failure is not None:
                self._failed(without_frames(failure), {login: waiter})
                continue
            holds = login not in ended
            if waiter is not None:
                if not waiter.done():  # who waited may have been cancelled
                    waiter.set_result(holds)
            elif not holds:
                login.end()
            if holds and login in self._watched:
                login.expect_expiry()

    def _failed(self, error: Exception, due: dict[Checkable, Waiter]) -> None:
        for waiter in due.values():
            if waiter is not None and not waiter.done():
                failure = LoginCheckError(error)  # its own: each gets other frames
                failure.__cause__ = error
                waiter.set_exception(failure)
        staying = list(due.values()).count(None)
        if staying:
            _unchecked.log(
                self._kind.__qualname__,
                "%s until the next check (WS_AUTH_RECHECK, %g s): %r",
                counted(
                    staying,
                    "log-in could not be checked, and stays",
                    "log-ins could not be checked, and stay",
                ),
                conf.get().ws_auth_recheck,
                error,
            )
