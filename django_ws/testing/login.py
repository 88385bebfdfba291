"""Makes the session of a test client: with a user, with data, or both."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase
from django.test import Client


def session_cookie(user: Any, session: Mapping[str, Any] | SessionBase | None) -> dict[str, str]:
    """Log ``user`` in and store ``session``; the cookie that carries both. Uses the database."""
    if isinstance(session, SessionBase) and user is None:
        store = session
    else:
        store = import_module(settings.SESSION_ENGINE).SessionStore()
        if user is not None:
            client = Client()
            client.force_login(user)
            store = client.session
        store.update(dict(session.items() if session is not None else ()))
    store.save()
    return {settings.SESSION_COOKIE_NAME: store.session_key or ""}
