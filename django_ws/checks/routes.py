"""Checks that the ``ws_urls`` module can be imported, and that its routes have valid targets."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from django.core.checks import CheckMessage, Error, Warning  # noqa: A004  (Django's name)
from django.core.checks.urls import check_resolver
from django.core.exceptions import ImproperlyConfigured
from django.urls import URLPattern, URLResolver
from django.urls.resolvers import RegexPattern

from django_ws import conf
from django_ws.checks.handlers import check_handler
from django_ws.handler import WebSocketHandler
from django_ws.routing.diagnostics import Fault, import_fault, is_handler_class, target_fault

NOT_A_VIEW = "urls.E009"  # Django's advice to call as_view() would mislead


def check_routes(**kwargs: Any) -> Iterator[CheckMessage]:
    try:
        name = conf.read("ROOT_WS_URLCONF")
    except ImproperlyConfigured:
        return  # check_settings tells
    try:
        import_module(name)
    except Exception as error:
        yield _message(import_fault(name, error))
        return
    handlers: dict[type[WebSocketHandler], None] = {}  # each once, in the order of the routes
    for route, target in _walk(URLResolver(RegexPattern(r"^/"), name), "", ()):
        if isinstance(target, CheckMessage):
            yield target
        elif is_handler_class(target):
            handlers[target] = None
        elif fault := target_fault(name, route, target):
            yield _message(fault)
    told: list[CheckMessage] = []
    for handler_class in handlers:
        for message in check_handler(handler_class):
            if message not in told:  # of a class that several handlers inherit from
                told.append(message)
                yield message


def _message(fault: Fault) -> CheckMessage:
    kind = Warning if fault.id.startswith("django_ws.W") else Error
    return kind(fault.text, hint=fault.cure, id=fault.id)


def _walk(resolver: URLResolver, prefix: str, above: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    """Every whole route and its target, through includes; or what Django finds wrong with it."""
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
            yield from _walk(pattern, f"{prefix}{pattern.pattern}", above)
        else:
            for message in check_resolver(pattern):
                if message.id != NOT_A_VIEW:
                    yield "", message
            if isinstance(pattern, URLPattern):
                yield f"{prefix}{pattern.pattern}", pattern.callback
