"""Checks that each entry of ``WS_MIDDLEWARE`` can be imported, and has what it needs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured

from django_ws import conf
from django_ws.conf.importing import import_named
from django_ws.logs.causes import cause
from django_ws.middleware import AuthMiddleware
from django_ws.middleware.chain import run
from django_ws.middleware.token import TokenMiddleware
from django_ws.signatures import first_parameters, takes

FORM = (
    "Write a class with __init__(self, func) and async def __call__(self, ws), or a function "
    "that takes func and returns such a callable."
)
SESSIONS_IN_THE_DATABASE = {
    "django.contrib.sessions.backends.db",
    "django.contrib.sessions.backends.cached_db",
}
# What marks a middleware of the MIDDLEWARE setting.
HTTP_ATTRIBUTES = (
    "async_capable",
    "process_exception",
    "process_request",
    "process_response",
    "process_template_response",
    "process_view",
    "sync_capable",
)


def check_middleware(**kwargs: Any) -> Iterator[CheckMessage]:
    try:
        paths = conf.read("WS_MIDDLEWARE")
    except ImproperlyConfigured:
        return  # check_settings tells
    for index, path in enumerate(paths):
        place = f"WS_MIDDLEWARE[{index}]"
        try:
            middleware = import_named(path)
        except Exception as error:
            yield Error(
                f"{place}: cannot import {path!r} ({cause(error)}).",
                hint="Check the dotted path, and that its module can be imported.",
                id="django_ws.E002",
            )
            continue
        if _is_for_http(middleware):
            yield Error(
                f"{place}: {path} is a middleware for HTTP requests, as the setting MIDDLEWARE "
                "lists them.",
                hint=f"Remove it from WS_MIDDLEWARE, or write one for WebSockets. {FORM}",
                id="django_ws.E003",
            )
        elif fault := _fault(middleware):
            yield Error(f"{place}: {path} {fault}.", hint=FORM, id="django_ws.E003")
        elif isinstance(middleware, type) and issubclass(middleware, AuthMiddleware):
            yield from _lacking_apps(f"{place}: {path}")
        elif isinstance(middleware, type) and issubclass(middleware, TokenMiddleware):
            yield from _unbuildable(f"{place}: {path}", middleware)


def _is_for_http(middleware: Any) -> bool:
    if any(hasattr(middleware, name) for name in HTTP_ATTRIBUTES):
        return True
    return callable(middleware) and "get_response" in first_parameters(middleware)


def _fault(middleware: Any) -> str:
    if not callable(middleware):
        return f"is {middleware!r}, neither a class nor a function"
    if iscoroutinefunction(middleware):
        return "is a coroutine function, not a function that returns one"
    if not takes(middleware, "func"):
        return "does not take one argument, the next callable"
    return _class_fault(middleware) if isinstance(middleware, type) else ""


def _class_fault(middleware: type) -> str:
    # Not getattr(): on a class without __call__ that finds the one which makes instances.
    calls = [vars(base)["__call__"] for base in middleware.__mro__ if "__call__" in vars(base)]
    if not calls:
        return "has no __call__"
    call = calls[0]
    if (
        not iscoroutinefunction(inspect.unwrap(call))
        and call is not vars(AuthMiddleware)["__call__"]
    ):
        return "has a __call__ that is not async def"
    if not takes(call, "self", "ws"):
        return "has a __call__ that does not take one argument, ws"
    return ""


def _unbuildable(place: str, middleware: type[TokenMiddleware]) -> Iterator[CheckMessage]:
    if not apps.is_installed("django.contrib.auth"):
        yield Error(
            f"{place} needs django.contrib.auth in INSTALLED_APPS.",
            hint="Add it to INSTALLED_APPS, or leave the middleware out of WS_MIDDLEWARE.",
            id="django_ws.E004",
        )
        return
    try:
        middleware(run)
    except ImproperlyConfigured as error:
        yield Error(
            f"{place} lacks what it needs: {error}",
            hint="Do what the message says, or leave it out of WS_MIDDLEWARE.",
            id="django_ws.E004",
        )


def _lacking_apps(place: str) -> Iterator[CheckMessage]:
    needed = ["django.contrib.auth"]
    if settings.SESSION_ENGINE in SESSIONS_IN_THE_DATABASE:
        needed.append("django.contrib.sessions")
    missing = [name for name in needed if not apps.is_installed(name)]
    if missing:
        names = " and ".join(missing)
        yield Error(
            f"{place} needs {names} in INSTALLED_APPS.",
            hint=f"Add {names} to INSTALLED_APPS, or leave it out of WS_MIDDLEWARE.",
            id="django_ws.E004",
        )
