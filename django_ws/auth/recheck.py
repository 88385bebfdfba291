"""Checks log-ins again, every WS_AUTH_RECHECK seconds and when asked to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from weakref import WeakKeyDictionary

from django_ws import conf
from django_ws.auth.recheck_batch import Looks, Watched
from django_ws.threads.pool import Place, context_at, place


class Watch:
    """The log-ins of one event loop. For its thread only.

    Those of one class are looked at together, and beside those of the others. Every
    ``WS_AUTH_RECHECK`` seconds all log-ins are due.
    """

    def __init__(self, where: Place) -> None:
        self._where = where
        self._context = context_at(where)  # of no connection: it outlives them
        self._all: dict[Watched, None] = {}
        self._looks: dict[type[Watched], Looks] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether all that was due has been looked at."""
        return all(looks.is_idle for looks in self._looks.values())

    def add(self, login: Watched) -> None:
        self._all[login] = None
        if self._timer is None:
            self._set_timer()

    def remove(self, login: Watched) -> None:
        self._all.pop(login, None)
        self._looks_of(login).remove(login)
        if not self._all and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            if (work := self._where[2]) is not None:
                work.log_in_watch = None  # they refer to each other
            # Classes may be made at any time, and must not stay for their looks.
            self._looks = {kind: looks for kind, looks in self._looks.items() if not looks.is_idle}

    def check(self, login: Watched) -> None:
        """Look soon; end it if it has ended. A failure is logged, and it stays."""
        if login in self._all:
            self._looks_of(login).add(login, None)

    def holds(self, login: Watched) -> Awaitable[bool]:
        """Look soon, and tell. Awaiting raises ``LoginCheckError`` where that fails."""
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._looks_of(login).add(login, waiter)
        return waiter

    def _looks_of(self, login: Watched) -> Looks:
        looks = self._looks.get(type(login))
        if looks is None:
            # A context for each: a thread that hangs holds up the checks of one class alone.
            looks = Looks(type(login), self._all, context_at(self._where))
            self._looks[type(login)] = looks
        return looks

    def _set_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(
            conf.get().ws_auth_recheck, self._check_all, context=self._context
        )

    def _check_all(self) -> None:
        for login in self._all:
            self.check(login)
        self._set_timer()


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Place, Watch]] = WeakKeyDictionary()


def watch_here() -> Watch:
    """The watch of the running event loop, whose database work is done where that of the
    current context is. There is one outside tests, and one for each connection whose handler
    overrides ``unit_of_work``.
    """
    loop = asyncio.get_running_loop()
    where = place()
    _, _, work = where
    if work is not None:
        if work.log_in_watch is None:
            work.log_in_watch = Watch(where)
        own: Watch = work.log_in_watch
        return own
    watches = _watches.setdefault(loop, {})
    watch = watches.get(where)
    if watch is None:
        watch = watches[where] = Watch(where)
    return watch
