"""From a path to the handler class and its arguments, and from a name back to the path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from django.conf import settings
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.http import HttpRequest
from django.urls import (
    LocalePrefixPattern,
    Resolver404,
    ResolverMatch,
    URLResolver,
    get_resolver,
    reverse,
)
from django.utils import translation

from django_ws import conf
from django_ws.connection.connection import Connection
from django_ws.handler import WebSocketHandler
from django_ws.request import WebSocketRequest
from django_ws.routing.asgi_target import ASGIApplicationHandler

MAX_STATIC_MATCHES = 1024


class _Routes:
    """What is known of the routes of one URLconf, found once.

    ``static``: a route without arguments always gives the same match, which its connections
    share. ``by_language``: ``i18n_patterns`` are among them.
    """

    __slots__ = ("by_language", "static")

    def __init__(self, resolver: URLResolver) -> None:
        self.static: dict[str, ResolverMatch] = {}
        self.by_language = any(
            isinstance(each.pattern, LocalePrefixPattern) for each in resolver.url_patterns
        )


_routes: WeakKeyDictionary[URLResolver, _Routes] = WeakKeyDictionary()


@receiver(setting_changed)
def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == "APPEND_SLASH":  # the matches are those of the old value
        _routes.clear()


def resolve(path: str) -> ResolverMatch:
    """The route of a path (without the script prefix), as Django's ``ResolverMatch``.

    A path that matches only with a trailing slash is matched with it when ``APPEND_SLASH`` is
    on. Of routes inside ``i18n_patterns`` the language of the path decides, whichever is active.
    Raises ``Resolver404`` with the tried routes, ``ImproperlyConfigured`` where the routes
    cannot be imported.
    """
    resolver = get_resolver(conf.get().root_ws_urlconf)
    routes = _routes.get(resolver)
    if routes is None:
        _import_routes(resolver)
        routes = _routes.setdefault(resolver, _Routes(resolver))
    match = routes.static.get(path)
    if match is not None:
        return match
    if routes.by_language:
        with translation.override(language_of(path)):
            match = _resolve(resolver, path)
    else:
        match = _resolve(resolver, path)
    if not match.kwargs and not match.args:
        if len(routes.static) >= MAX_STATIC_MATCHES:
            routes.static.clear()  # a route that matches anything filled it
        routes.static[path] = match
    return match


def _resolve(resolver: URLResolver, path: str) -> ResolverMatch:
    try:
        return resolver.resolve(path)
    except Resolver404 as not_found:
        if settings.APPEND_SLASH and not path.endswith("/"):
            try:
                return resolver.resolve(f"{path}/")
            except Resolver404:
                pass
        raise not_found from None


def language_of(path: str) -> str:
    """The language that a path begins with, or that of the site."""
    return translation.get_language_from_path(path) or settings.LANGUAGE_CODE


def _import_routes(resolver: URLResolver) -> None:
    try:
        _ = resolver.urlconf_module
    except Exception as error:
        from django_ws.routing.diagnostics import import_fault  # only where something is wrong

        raise import_fault(conf.get().root_ws_urlconf, error).error() from error


def new_handler(
    match: ResolverMatch, connection: Connection, request: WebSocketRequest
) -> WebSocketHandler:
    """The handler of one connection: of the route's class, or one for its ASGI application."""
    target: Any = match.func
    if isinstance(target, type) and issubclass(target, WebSocketHandler):
        return target(connection, request, match.args, dict(match.kwargs))
    return ASGIApplicationHandler(connection, request, match.args, dict(match.kwargs), target)


def ws_reverse(
    name: str,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> str:
    """The path of a named WebSocket route, as Django's ``reverse()`` gives it for pages: with
    the language that is active, where it stands inside ``i18n_patterns``.

    Raises ``NoReverseMatch``, and ``ImproperlyConfigured`` where the routes cannot be imported.
    """
    urlconf = conf.get().root_ws_urlconf
    _import_routes(get_resolver(urlconf))
    return reverse(name, urlconf=urlconf, args=args, kwargs=dict(kwargs or {}))


def ws_url(
    request: HttpRequest,
    name: str,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> str:
    """The whole URL of a named route: ``wss://`` where the request is secure, with its host."""
    scheme = "wss" if request.is_secure() else "ws"
    return f"{scheme}://{request.get_host()}{ws_reverse(name, args, kwargs)}"
