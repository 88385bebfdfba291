"""Checks that tickets are kept in a cache that all processes share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Warning  # noqa: A004  (Django's name)

from django_ws import conf
from django_ws.auth.tokens.once import is_sharp
from django_ws.conf.importing import import_named
from django_ws.middleware import TicketAuthMiddleware


def check_tickets(**kwargs: Any) -> Iterator[CheckMessage]:
    if _takes_tickets() and not is_sharp() and not settings.DEBUG:
        yield Warning(
            "CACHES['default']: with this cache two processes may take the same ticket, or refuse "
            "what the other has given.",
            hint="Use a cache that all processes share and that adds atomically: Redis, "
            "Memcached or the database. With one process and local memory, silence this check.",
            id="django_ws.W011",
        )


def _takes_tickets() -> bool:
    try:
        found = [import_named(path) for path in conf.read("WS_MIDDLEWARE")]
    except Exception:  # whatever a module of the site's raises
        return False  # check_settings or check_middleware tells
    return any(isinstance(each, type) and issubclass(each, TicketAuthMiddleware) for each in found)
