"""A log-in that consists of several: it ends when the first of them ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from django_ws.types import Login


class JointLogin:
    """For example that of a session, and the user whom a middleware makes of its user.

    ``user`` is that of the last one: who the connection speaks for.
    """

    __slots__ = ("identities", "logins", "user")

    def __init__(self, *logins: Login) -> None:
        self.logins = logins
        self.user = logins[-1].user
        self.identities = tuple(
            dict.fromkeys(identity for login in logins for identity in login.identities)
        )

    def begin(self, end: Callable[[], None]) -> Awaitable[bool]:
        """Watch all of them from now on. Whether all still hold."""
        return self._all_hold([login.begin(end) for login in self.logins])

    async def _all_hold(self, answers: list[Awaitable[bool]]) -> bool:
        return all(await asyncio.gather(*answers))

    def check(self) -> None:
        """Look soon whether they still hold."""
        for login in self.logins:
            login.check()

    def finish(self) -> None:
        """The connection is over."""
        for login in self.logins:
            login.finish()
