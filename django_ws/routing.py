"""From a path to the handler class and its arguments, and from a name back to the path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard
from weakref import WeakKeyDictionary

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.urls import Resolver404, ResolverMatch, URLResolver, get_resolver, reverse

from django_ws import conf
from django_ws.asgi_route import ASGIApplicationHandler
from django_ws.connection import Connection
from django_ws.handler import WebSocketHandler
from django_ws.request import WebSocketRequest

# A route without arguments always gives the same match: found once, shared by its connections.
_static_matches: WeakKeyDictionary[URLResolver, dict[str, ResolverMatch]] = WeakKeyDictionary()
MAX_STATIC_MATCHES = 1024


def resolve(path: str) -> ResolverMatch:
    """The route of a path (without the script prefix), as Django's ``ResolverMatch``.

    A path that matches only with a trailing slash is matched with it when ``APPEND_SLASH`` is
    on. Raises ``Resolver404`` with the tried routes.
    """
    resolver = get_resolver(conf.get().root_ws_urlconf)
    static = _static_matches.setdefault(resolver, {})
    try:
        match = static.get(path) or resolver.resolve(path)
    except Resolver404 as not_found:
        if settings.APPEND_SLASH and not path.endswith("/"):
            try:
                return resolver.resolve(f"{path}/")
            except Resolver404:
                pass
        raise not_found from None
    if not match.kwargs and not match.args:
        if len(static) >= MAX_STATIC_MATCHES:
            static.clear()  # a route that matches anything filled it
        static[path] = match
    return match


def is_handler_class(target: Any) -> TypeGuard[type[WebSocketHandler]]:
    return isinstance(target, type) and issubclass(target, WebSocketHandler)


def new_handler(
    match: ResolverMatch, connection: Connection, request: WebSocketRequest
) -> WebSocketHandler:
    """The handler of one connection. Raises ``ImproperlyConfigured`` for a wrong target."""
    target: Any = match.func
    if is_handler_class(target):
        return target(connection, request, match.args, dict(match.kwargs))
    if isinstance(target, type):
        raise ImproperlyConfigured(
            f"{target!r} in {conf.get().root_ws_urlconf} is neither a WebSocketHandler class nor "
            "an ASGI application. Name a handler class itself, or an application such as "
            "Consumer.as_asgi()."
        )
    return ASGIApplicationHandler(connection, request, match.args, dict(match.kwargs), target)


def ws_reverse(
    name: str,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> str:
    """The path of a named WebSocket route, as Django's ``reverse()`` gives it for pages.

    Raises ``NoReverseMatch``.
    """
    return reverse(name, urlconf=conf.get().root_ws_urlconf, args=args, kwargs=dict(kwargs or {}))


def ws_url(
    request: HttpRequest,
    name: str,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> str:
    """The whole URL of a named route: ``wss://`` where the request is secure, with its host."""
    scheme = "wss" if request.is_secure() else "ws"
    return f"{scheme}://{request.get_host()}{ws_reverse(name, args, kwargs)}"
