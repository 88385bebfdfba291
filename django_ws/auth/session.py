"""The log-in by Django's session: it ends with the session."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Self

from asgiref.sync import sync_to_async
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends import cache, db, signed_cookies
from django.contrib.sessions.backends.base import SessionBase
from django.db import router
from django.utils import timezone

from django_ws.auth.login import Login
from django_ws.session import ConnectionSession
from django_ws.thread_caches import share_cache


def session_owner(session_key: str) -> str:
    """What a log-out names to find the connections of a session.

    Not the key, which would log in whoever reads it on its way through Redis.
    """
    return f"\0session:{hashlib.sha256(session_key.encode()).hexdigest()}"


class SessionLogin(Login):
    """Ends when the session is flushed, has expired, or belongs to somebody else."""

    __slots__ = ("key", "store")

    def __init__(self, user: Any, session: SessionBase) -> None:
        self.key = session.session_key or ""
        self.store = session.engine if isinstance(session, ConnectionSession) else type(session)
        super().__init__(user, owners=(session_owner(self.key),))

    @classmethod
    async def ended(cls, logins: Sequence[Self]) -> Collection[Self]:
        ended = set(await super().ended(logins))
        by_store: dict[type[SessionBase], list[Self]] = {}
        for login in logins:
            if login not in ended:
                by_store.setdefault(login.store, []).append(login)
        for store, of_store in by_store.items():
            sessions = await _sessions(store, {login.key for login in of_store})
            ended.update(login for login in of_store if not login._is_in(sessions))
        return ended

    def _has_ended(self, now: float, users: dict[tuple[Any, Any], Any]) -> bool:
        self.expires_at = None  # the session is looked at anew: it may have been prolonged
        return super()._has_ended(now, users)

    def _is_in(self, sessions: dict[str, tuple[dict[str, Any], float | None]]) -> bool:
        data, self.expires_at = sessions.get(self.key, ({}, None))
        return data.get(SESSION_KEY) == str(self.user.pk)


async def _sessions(
    store: type[SessionBase], keys: Collection[str]
) -> dict[str, tuple[dict[str, Any], float | None]]:
    """The data and the end (None where the engine tells none) of the sessions that are valid."""
    if issubclass(store, db.SessionStore):  # cached_db, too: the database has the last word
        return await _in_database(store, keys)
    if issubclass(store, cache.SessionStore):
        return await _in_cache(store, keys)
    if issubclass(store, signed_cookies.SessionStore):
        # The key is the signed data: there is nothing on the server that could have ended.
        return {key: (store(key).load(), None) for key in keys}
    return {key: (await store(key).aload(), None) for key in keys}


@sync_to_async  # all in one go: decoding many would hold up the event loop
def _in_database(
    store: type[db.SessionStore], keys: Collection[str]
) -> dict[str, tuple[dict[str, Any], float | None]]:
    model = store.get_model_class()
    rows = model.objects.using(router.db_for_write(model)).filter(
        session_key__in=keys, expire_date__gt=timezone.now()
    )
    decode = store().decode
    return {
        row.session_key: (decode(row.session_data), row.expire_date.timestamp()) for row in rows
    }


@sync_to_async
def _in_cache(
    store: type[cache.SessionStore], keys: Iterable[str]
) -> dict[str, tuple[dict[str, Any], float | None]]:
    prefix, any_of_them = store.cache_key_prefix, store()
    share_cache(any_of_them)
    found = any_of_them._cache.get_many(  # type: ignore[attr-defined]
        [f"{prefix}{key}" for key in keys]
    )
    return {key.removeprefix(prefix): (data, None) for key, data in found.items()}
