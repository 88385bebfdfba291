"""Checks log-ins again, every WS_AUTH_RECHECK seconds and when asked to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from django_ws import conf
from django_ws.auth.recheck_batch import Checkable, RecheckBatch
from django_ws.threads.per_loop import PerLoop
from django_ws.threads.pool import Place, context_at, place


class Recheck:
    """Checks the log-ins of one event loop again. For its thread only.

    Those of one class are checked together, while those of other classes are checked, too. Every
    ``WS_AUTH_RECHECK`` seconds all log-ins are due.
    """

    def __init__(self, where: Place) -> None:
        self._where = where
        self._context = context_at(where)  # of no connection: it outlives them
        self._all: dict[Checkable, None] = {}
        self._batches: dict[type[Checkable], RecheckBatch] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether all that was due has been checked."""
        return all(batch.is_idle for batch in self._batches.values())

    def add(self, login: Checkable) -> None:
        self._all[login] = None
        if self._timer is None:
            self._set_timer()

    def remove(self, login: Checkable) -> None:
        self._all.pop(login, None)
        self._batch_of(login).remove(login)
        if not self._all and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            if (work := self._where[2]) is not None:
                work.log_in_recheck = None  # they refer to each other
            # Classes may be made at any time, and must not be kept alive by it.
            self._batches = {
                kind: batch for kind, batch in self._batches.items() if not batch.is_idle
            }

    def check(self, login: Checkable) -> None:
        """Check it soon, and end it if it is not valid any more. A failure of the check itself is
        logged, and the log-in stays."""
        if login in self._all:
            self._batch_of(login).add(login, None)

    def holds(self, login: Checkable) -> Awaitable[bool]:
        """Check it soon. Awaiting gives the result, or raises ``LoginCheckError`` if it fails."""
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._batch_of(login).add(login, waiter)
        return waiter

    def _batch_of(self, login: Checkable) -> RecheckBatch:
        batch = self._batches.get(type(login))
        if batch is None:
            # A context for each: a thread that hangs holds up the checks of one class alone.
            batch = RecheckBatch(type(login), self._all, context_at(self._where))
            self._batches[type(login)] = batch
        return batch

    def _set_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(
            conf.get().ws_auth_recheck, self._check_all, context=self._context
        )

    def _check_all(self) -> None:
        for login in self._all:
            self.check(login)
        self._set_timer()


_rechecks: PerLoop[dict[Place, Recheck]] = PerLoop(dict)


def recheck_here() -> Recheck:
    """The re-check of the running event loop, whose database work is done where that of the
    current context is. There is one outside tests, and one for each connection whose handler
    overrides ``unit_of_work``.
    """
    loop = asyncio.get_running_loop()
    where = place()
    _, _, work = where
    if work is not None:
        if work.log_in_recheck is None:
            work.log_in_recheck = Recheck(where)
        own: Recheck = work.log_in_recheck
        return own
    rechecks = _rechecks(loop)
    recheck = rechecks.get(where)
    if recheck is None:
        recheck = rechecks[where] = Recheck(where)
    return recheck
