"""The ``ws_urls`` module can be imported, and every route in it leads to a right target."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004  (Django's name)
from django.core.checks.urls import check_resolver
from django.core.exceptions import ImproperlyConfigured
from django.urls import URLPattern, URLResolver
from django.urls.resolvers import RegexPattern

from django_ws import conf
from django_ws.checks.handlers import check_handler
from django_ws.checks.imports import cause
from django_ws.checks.targets import NAME_THE_CLASS, check_target
from django_ws.handler import WebSocketHandler
from django_ws.routing import is_handler_class

NOT_A_VIEW = "urls.E009"  # Django's advice to call as_view() would mislead


def check_routes(**kwargs: Any) -> Iterator[CheckMessage]:
    try:
        name = conf.read("ROOT_WS_URLCONF")
    except ImproperlyConfigured:
        return  # check_settings tells
    try:
        import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            yield _missing(name)
        else:
            yield _broken(name, error)
        return
    handlers: dict[type[WebSocketHandler], None] = {}  # each once, in the order of the routes
    for place, target in _walk(URLResolver(RegexPattern(r"^/"), name), name, "", ()):
        if isinstance(target, CheckMessage):
            yield target
        elif is_handler_class(target):
            handlers[target] = None
        else:
            yield from check_target(place, target)
    for handler_class in handlers:
        yield from check_handler(handler_class)


def _missing(name: str) -> CheckMessage:
    if hasattr(settings, "ROOT_WS_URLCONF"):
        return Error(
            f"ROOT_WS_URLCONF: there is no module {name!r}.",
            hint="Name the module with the WebSocket routes, or let `python manage.py startws APP` "
            "write it.",
            id="django_ws.E005",
        )
    return Warning(
        f"There are no WebSocket routes yet: no module {name!r}.",
        hint="Run `python manage.py startws APP`, which writes it and a first handler. Routes "
        "elsewhere are named by the setting ROOT_WS_URLCONF.",
        id="django_ws.W002",
    )


def _broken(name: str, error: Exception) -> CheckMessage:
    hint = "Correct what raises this; the module must be importable as any other."
    if isinstance(error, TypeError) and (
        # From path() for an instance, and from a handler class that is called.
        str(error).startswith("view must be") or "'connection', 'request', 'args'" in str(error)
    ):
        hint = NAME_THE_CLASS
    elif isinstance(error, AttributeError) and is_handler_class(error.obj):
        hint = NAME_THE_CLASS  # as_view(), as_asgi()
    return Error(
        f"{name}: the WebSocket routes cannot be imported ({cause(error)}).",
        hint=hint,
        id="django_ws.E006",
    )


def _walk(
    resolver: URLResolver, urlconf: str, prefix: str, above: tuple[Any, ...]
) -> Iterator[tuple[str, Any]]:
    """Every route's place and target, through includes; or what Django finds wrong with it."""
    if any(resolver.urlconf_module is module for module in above):
        return  # a module that includes itself
    above = (*above, resolver.urlconf_module)
    try:
        patterns = resolver.url_patterns
    except ImproperlyConfigured:
        where = f", included at {prefix!r}," if prefix else ""
        yield (
            "",
            Error(
                f"{resolver.urlconf_name}{where} has no list urlpatterns.",
                hint="Write urlpatterns = [path(...), ...] in it. If it is there, look for a "
                "circular import.",
                id="django_ws.E007",
            ),
        )
        return
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            for message in pattern.pattern.check():
                yield "", message
            yield from _walk(pattern, urlconf, f"{prefix}{pattern.pattern}", above)
        else:
            for message in check_resolver(pattern):
                if message.id != NOT_A_VIEW:
                    yield "", message
            if isinstance(pattern, URLPattern):
                yield f"{urlconf}: the route {f'{prefix}{pattern.pattern}'!r}", pattern.callback
