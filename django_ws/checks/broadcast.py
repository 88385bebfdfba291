"""The backends of ``WS_BROADCAST`` can be imported, and reach as far as the site needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004
from django.core.exceptions import ImproperlyConfigured

from django_ws import conf
from django_ws.pubsub.backends.base import Backend
from django_ws.pubsub.backends.memory import MemoryBackend
from django_ws.pubsub.hubs import backend_class


def check_broadcast(**kwargs: Any) -> Iterator[CheckMessage]:
    for _, found in _backends():
        if isinstance(found, ImproperlyConfigured):
            yield Error(
                str(found),
                hint="Name one of those that docs/broadcasts.md lists, or one of your own.",
                id="django_ws.E015",
            )


def check_reach(**kwargs: Any) -> Iterator[CheckMessage]:
    for alias, found in _backends():
        if isinstance(found, type) and issubclass(found, MemoryBackend) and not settings.DEBUG:
            yield Warning(
                f"WS_BROADCAST[{alias!r}]: broadcasts stay in one process, since they go through "
                "its memory.",
                hint="Set WS_BROADCAST to a server that all processes share, for example "
                "'redis://127.0.0.1:6379/0'. With one process, or without broadcasts, silence "
                "this check.",
                id="django_ws.W010",
            )


def _backends() -> Iterator[tuple[str, type[Backend] | ImproperlyConfigured]]:
    try:
        configured = conf.read("WS_BROADCAST")
    except ImproperlyConfigured:
        return  # check_settings tells
    for alias, config in configured.items():
        try:
            yield alias, backend_class(alias, config)
        except ImproperlyConfigured as error:
            yield alias, error
