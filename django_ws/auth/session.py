"""Log-in by Django's session. It ends with the session, or when its user changes."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Self

from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends import cache, db
from django.contrib.sessions.backends.base import SessionBase
from django.db import Error, models, router
from django.utils import timezone

from django_ws.auth.login import Login, row_of, users_now
from django_ws.auth.session_identity import session_identity
from django_ws.auth.session_user import SessionUsers
from django_ws.session import ConnectionSession
from django_ws.threads.caches import share_cache

Sessions = dict[str, tuple[dict[str, Any], float | None]]  # data, and the end where one is known


class SessionLogin(Login):
    """Ends when the session is flushed, has expired, or belongs to somebody else; and when a
    page would not know its user any more: the session's hash is another one, or the backend
    refuses the user.
    """

    __slots__ = ("key", "store")

    def __init__(self, user: Any, session: SessionBase) -> None:
        self.key = session.session_key or ""
        self.store = session.engine if isinstance(session, ConnectionSession) else type(session)
        super().__init__(user, identities=(session_identity(self.key),))

    @classmethod
    def _ended_by_now(cls, logins: Sequence[Self]) -> set[Self]:
        users = users_now([login.user for login in logins])
        for login in logins:
            login.expires_at = None  # the session is looked at again: it may have been prolonged
        ended = cls._ended_users(logins, users)
        by_store: dict[type[SessionBase], list[Self]] = {}
        for login in logins:
            if login not in ended:
                by_store.setdefault(login.store, []).append(login)
        session_users = SessionUsers()
        for store, of_store in by_store.items():
            sessions = _sessions(store, {login.key for login in of_store})
            random.shuffle(of_store)  # where there is no time for all, others come first next time
            for login in of_store:
                data, login.expires_at = sessions.get(login.key, ({}, None))
                try:
                    if not (
                        data.get(SESSION_KEY) == key_in_session(login.user)
                        and session_users.is_known(data, row_of(login.user, users))
                    ):
                        ended.add(login)
                except Error:
                    raise  # the database is away, for all of them
                except Exception as error:  # of a backend, which refuses nobody else by it
                    login.failure = error
        return ended


def key_in_session(user: Any) -> str:
    """What Django's ``login()`` writes into the session for this user."""
    if not isinstance(user, models.Model):
        return str(user.pk)
    return str(user._meta.pk.value_to_string(user))


def _sessions(store: type[SessionBase], keys: Collection[str]) -> Sessions:
    """Those of the sessions that are valid. Blocks."""
    if issubclass(store, db.SessionStore):  # cached_db, too: the database has the last word
        return _in_database(store, keys)
    if issubclass(store, cache.SessionStore):
        return _in_cache(store, keys)
    # With signed cookies the key is the signed data: nothing on the server could have ended.
    return {key: (_load(store(key)), None) for key in keys}


def _load(session: SessionBase) -> dict[str, Any]:
    # Some engines make a new session in the place of one that is no more.
    vars(session)["create"] = _do_nothing
    data: dict[str, Any] = session.load()
    return data


def _do_nothing() -> None: ...


def _in_database(store: type[db.SessionStore], keys: Collection[str]) -> Sessions:
    model = store.get_model_class()
    rows = model.objects.using(router.db_for_write(model)).filter(
        session_key__in=keys, expire_date__gt=timezone.now()
    )
    decode = store().decode
    return {
        row.session_key: (decode(row.session_data), row.expire_date.timestamp()) for row in rows
    }


def _in_cache(store: type[cache.SessionStore], keys: Iterable[str]) -> Sessions:
    prefix, any_of_them = store.cache_key_prefix, store()
    share_cache(any_of_them)
    found = any_of_them._cache.get_many(  # type: ignore[attr-defined]
        [f"{prefix}{key}" for key in keys]
    )
    return {key.removeprefix(prefix): (data, None) for key, data in found.items()}
