"""The log-in of a connection, and whether it is still valid."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Self

from asgiref.sync import sync_to_async
from django.db import models, router

from django_ws.auth.recheck import Recheck, recheck_here
from django_ws.pubsub.topics import user_topic

UserRows = dict[tuple[Any, Any], Any]  # by class and primary key


class Login:
    """The log-in of one connection: the user, and until when it holds.

    A middleware sets it as ``request.login``, beside ``request.user``. ``expires_at`` is in
    seconds since the epoch. Subclass it for a log-in that rests on more than its user: a
    session, a token. For the event loop's thread only.
    """

    __slots__ = (
        "_password",
        "_recheck",
        "_timer",
        "_was_active",
        "end",
        "expires_at",
        "failure",
        "identities",
        "user",
    )

    def __init__(
        self, user: Any, *, expires_at: float | None = None, identities: Sequence[str] = ()
    ) -> None:
        self.user = user
        # A float also where a token names an int that is none: better refused here.
        self.expires_at = None if expires_at is None else float(expires_at)
        # What a log-out names to find the connection.
        self.identities = tuple(dict.fromkeys((*own_topic(user), *identities)))
        self._was_active = getattr(user, "is_active", True)
        self._password = getattr(user, "password", None)  # its hash: changes with the password
        self._timer: asyncio.TimerHandle | None = None
        self._recheck: Recheck | None = None
        self.end: Callable[[], None] = _nothing
        self.failure: Exception | None = None  # why ``ended`` could not tell of this one alone

    @classmethod
    async def ended(cls, logins: Sequence[Self]) -> Collection[Self]:
        """Those of the log-ins that do not hold any more, found in one query for each model.

        By default: it has expired; the user is deleted, was made inactive, or has a new
        password. What it raises is logged, and the log-ins stay until the next check.
        """
        # All in one go: making many objects would hold up the event loop.
        return await sync_to_async(cls._ended_by_now)(logins)

    @classmethod
    def _ended_by_now(cls, logins: Sequence[Self]) -> set[Self]:
        return cls._ended_users(logins, users_now([login.user for login in logins]))

    @classmethod
    def _ended_users(cls, logins: Sequence[Self], users: UserRows) -> set[Self]:
        now = time.time()
        return {login for login in logins if login._has_ended(now, users)}

    def _has_ended(self, now: float, users: UserRows) -> bool:
        if self.expires_at is not None and self.expires_at <= now:
            return True
        if not isinstance(self.user, models.Model):
            return False
        user = row_of(self.user, users)
        return (
            user is None
            or (self._was_active and not getattr(user, "is_active", True))
            or getattr(user, "password", None) != self._password
        )

    # What the life of the connection calls

    def begin(self, end: Callable[[], None]) -> Awaitable[bool]:
        """Watch it from now on, and call ``end`` when it has ended. Whether it still holds."""
        self.end = end
        self._recheck = recheck_here()
        self._recheck.add(self)
        return self._recheck.holds(self)

    def check(self) -> None:
        """Look soon whether it still holds."""
        if self._recheck is not None:
            self._recheck.check(self)

    def finish(self) -> None:
        """The connection is over."""
        self.end = _nothing
        if self._recheck is not None:
            self._recheck.remove(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def expect_expiry(self) -> None:
        """Look again at ``expires_at``, which the last check may have moved."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.expires_at is not None:
            # A day at most: the clock of the wall may be set meanwhile.
            seconds = min(max(self.expires_at - time.time(), 0.0) + 0.01, 86_400.0)
            self._timer = asyncio.get_running_loop().call_later(seconds, self.check)


def _nothing() -> None: ...


def own_topic(user: Any) -> tuple[str, ...]:
    return (user_topic(user),) if getattr(user, "pk", None) is not None else ()


def users_now(users: Sequence[Any]) -> UserRows:
    """The rows of these users, as they are now. Blocks.

    From the database where they are written: a copy of it may not have what was just saved.
    """
    found = {}
    wanted: dict[tuple[Any, str], set[Any]] = {}
    for user in users:
        if isinstance(user, models.Model):
            model = user.__class__  # not type(): it may be one of Django's lazy objects
            database = router.db_for_write(model, instance=user)
            wanted.setdefault((model, database), set()).add(user.pk)
    for (model, database), keys in wanted.items():
        for row in model._default_manager.using(database).filter(pk__in=keys):
            found[model, row.pk] = row
    return found


def row_of(user: Any, users: UserRows) -> Any:
    """None where there is none."""
    return users.get((user.__class__, user.pk))
