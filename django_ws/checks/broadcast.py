"""Checks that the backends of ``WS_BROADCAST`` can be created, and reach all processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004
from django.core.exceptions import ImproperlyConfigured

from django_ws import conf
from django_ws.pubsub.backends.memory import MemoryBackend
from django_ws.pubsub.hub.registry import backend_class, made


def check_broadcast(**kwargs: Any) -> Iterator[CheckMessage]:
    for alias, config in _configured():
        try:
            # It opens nothing. Made like it are the backends of the event loops.
            made(alias, backend_class(alias, config).sync_publisher.for_location, config).close()
        except ImproperlyConfigured as error:
            yield Error(
                str(error),
                hint="docs/broadcasts.md lists the backends, and what each of them takes.",
                id="django_ws.E015",
            )


def check_reach(**kwargs: Any) -> Iterator[CheckMessage]:
    for alias, config in _configured():
        if _is_memory(alias, config) and not settings.DEBUG:
            yield Warning(
                f"WS_BROADCAST[{alias!r}]: broadcasts stay in one process, since they go through "
                "its memory. Where WS_BROADCAST is not set, runws connects its own workers.",
                hint="Set WS_BROADCAST to a server that all processes share, for example "
                "'redis://127.0.0.1:6379/0'. Silence this check with one process, without "
                "broadcasts, or where WS_BROADCAST is not set, one runws serves the site and "
                "nothing else broadcasts (no Celery, no manage.py, no second machine).",
                id="django_ws.W010",
            )


def _configured() -> Iterable[tuple[str, conf.BroadcastConfig]]:
    try:
        configured: Mapping[str, conf.BroadcastConfig] = conf.read("WS_BROADCAST")
    except ImproperlyConfigured:
        return ()  # check_settings tells
    return configured.items()


def _is_memory(alias: str, config: conf.BroadcastConfig) -> bool:
    try:
        return issubclass(backend_class(alias, config), MemoryBackend)
    except ImproperlyConfigured:
        return False  # check_broadcast tells
