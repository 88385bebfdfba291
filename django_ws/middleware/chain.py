"""The middleware chain: built once from ``WS_MIDDLEWARE``, and again when a setting changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver

from django_ws import conf
from django_ws.auth.joint_login import JointLogin
from django_ws.auth.login import Login
from django_ws.conf.importing import import_named
from django_ws.handler import WebSocketHandler
from django_ws.limits.connection_limits import limits
from django_ws.middleware.token import TokenMiddleware

Chain = Callable[[WebSocketHandler], Awaitable[None]]

_chain: Chain | None = None


def chain() -> Chain:
    """The whole chain: called with a handler, it runs the handler's life inside all middleware.

    Raises ``ImproperlyConfigured`` naming the entry of ``WS_MIDDLEWARE`` that is wrong.
    """
    global _chain
    if _chain is None:
        _chain = build(conf.get().ws_middleware)
    return _chain


def build(paths: tuple[str, ...]) -> Chain:
    """A chain of these middleware, the first outermost, around the life of the handler."""
    innermost: Chain = run
    inner: tuple[TokenMiddleware, ...] = ()
    for index, path in reversed(list(enumerate(paths))):
        innermost = load(index, path)(innermost)
        if not callable(innermost):
            raise ImproperlyConfigured(
                f"WS_MIDDLEWARE[{index}]: {path} gave {innermost!r} instead of a middleware. "
                "Write a class with __init__(self, func) and async __call__(self, ws), or a "
                "function that takes func and returns such a callable."
            )
        if isinstance(innermost, TokenMiddleware):
            innermost.inner = inner
            inner = (innermost, *inner)
    return innermost


def run(ws: WebSocketHandler) -> Awaitable[None]:
    """The innermost of every chain: a route to an ASGI application has a ``_run`` of its own."""
    request = ws.request
    login, user = request.login, getattr(request, "user", None)
    if getattr(user, "is_authenticated", False):
        if login is None:  # a middleware of the site's has set the user
            request.login = Login(user)
        elif login.user != user:  # and made somebody else of the one who had logged in
            request.login = JointLogin(login, Login(user))
    limits.admit(ws._connection, request)
    return ws._run()  # which ends at once where that has refused


def load(index: int, path: str) -> Callable[[Chain], Any]:
    """The class or factory that one entry names."""
    try:
        middleware = import_named(path)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"WS_MIDDLEWARE[{index}]: cannot import {path!r} ({error}). Check the dotted path."
        ) from error
    if not callable(middleware):
        raise ImproperlyConfigured(
            f"WS_MIDDLEWARE[{index}]: {path} is {middleware!r}, not a middleware class or factory."
        )
    return middleware  # type: ignore[no-any-return]


@receiver(setting_changed)
def _forget(**kwargs: Any) -> None:
    global _chain
    _chain = None
