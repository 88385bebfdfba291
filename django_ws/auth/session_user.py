"""The user of a session, as a Django view would see it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, get_user, load_backend
from django.contrib.sessions.backends.base import SessionBase
from django.http import HttpRequest
from django.utils.crypto import constant_time_compare

from django_ws import conf

Readable = SessionBase | Mapping[str, Any]  # a session, or its data


def user_in(session: Readable) -> Any:
    """What Django's ``get_user`` finds: ``AnonymousUser`` where that is nobody. Blocks.

    It would give a session whose hash was made with a fallback key another key, and flush one
    whose hash is wrong. A handshake can send no cookie back, so that this would log the user
    out of the site: nothing is written here.
    """
    return get_user(cast(HttpRequest, SimpleNamespace(session=_ReadOnly(session))))


class _ReadOnly:
    """A session as ``get_user`` needs it, whose writes do nothing."""

    def __init__(self, session: Readable) -> None:
        self._session = session
        self.get = session.get

    def __getitem__(self, key: str) -> Any:
        return self._session[key]

    def __setitem__(self, key: str, value: Any) -> None: ...

    def cycle_key(self) -> None: ...

    def flush(self) -> None: ...


class SessionUsers:
    """Asks of many sessions what ``get_user`` asks of one, without a query for each of them.

    Only a backend with a ``get_user()`` of its own must be asked for each: for half of the time
    that a check may take (``WS_CONNECT_TIMEOUT``), then ``TimeoutError`` is raised for the
    others. For one check.
    """

    def __init__(self) -> None:
        from django.contrib.auth.backends import ModelBackend  # needs Django to be set up

        self._plain = ModelBackend.get_user
        self._backends: dict[Any, Any] = {}
        self._seconds = conf.get().ws_connect_timeout / 2
        self._until = time.monotonic() + self._seconds

    def is_known(self, data: dict[str, Any], row: Any) -> bool:
        """Whether a page with a session of these data would know its user, whose row this is."""
        backend = self._backend(data.get(BACKEND_SESSION_KEY))
        if backend is None:
            return False
        if type(backend).get_user is self._plain:
            return backend.user_can_authenticate(row) and _has_hash(row, data)
        if time.monotonic() > self._until:
            raise TimeoutError(f"asking backends for their users took {self._seconds:g} s")
        return bool(user_in(data).is_authenticated)

    def _backend(self, path: Any) -> Any:
        if path not in self._backends:
            is_listed = path in settings.AUTHENTICATION_BACKENDS
            self._backends[path] = load_backend(path) if is_listed else None
        return self._backends[path]


def _has_hash(user: Any, data: dict[str, Any]) -> bool:
    """As ``get_user``: whether the session was begun with this password, and a known key."""
    if not hasattr(user, "get_session_auth_hash"):
        return True
    given = data.get(HASH_SESSION_KEY)
    if not given:
        return False
    return constant_time_compare(given, user.get_session_auth_hash()) or any(
        constant_time_compare(given, each) for each in user.get_session_auth_fallback_hash()
    )
