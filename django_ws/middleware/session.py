"""AuthMiddleware: the log-in of Django's session, as on any page of the site."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase

from django_ws.auth.session import SessionLogin
from django_ws.auth.session_user import user_in
from django_ws.handler import WebSocketHandler
from django_ws.session import ConnectionSession


class AuthMiddleware:
    """Sets ``request.session``, ``request.user`` and ``request.auser()`` before any hook runs.

    The user is loaded with Django's own ``get_user``, in a thread: authentication backends,
    session hash and ``SECRET_KEY_FALLBACKS`` count as on a page. The handshake itself writes
    nothing to the session. What your code reads in it is as old as the handshake, and what it
    saves is merged, key by key, into what pages have saved meanwhile: ``ConnectionSession``.
    """

    def __init__(self, func: Callable[[WebSocketHandler], Awaitable[None]]) -> None:
        # Here and not above: models can only be imported once Django is set up.
        from django.contrib.auth.models import AnonymousUser

        self.func = func
        self.anonymous_user = AnonymousUser
        self.cookie_name = settings.SESSION_COOKIE_NAME
        self.session_store: type[SessionBase] = import_module(settings.SESSION_ENGINE).SessionStore

    # Not async def: of those who are not logged in, no coroutine stays in memory all the while.
    def __call__(self, ws: WebSocketHandler) -> Awaitable[None]:
        request = ws.request
        request.session_store = self.session_store
        if request.COOKIES.get(self.cookie_name):
            return self._with_user_of_session(ws)
        request.user = self.anonymous_user()
        return self.func(ws)

    async def _with_user_of_session(self, ws: WebSocketHandler) -> None:
        request = ws.request
        # Not aget_user(): it passes over what a backend has in get_user() alone. Besides, session
        # and user are read in one thread, in one go.
        request.user = await sync_to_async(user_in)(session := request.session)
        if isinstance(session, ConnectionSession):  # and not one of a middleware further out
            session.pack()
        if request.user.is_authenticated:
            request.login = SessionLogin(request.user, request.session)
        await self.func(ws)
