"""Under ``check --deploy``: pages of strangers cannot open sockets with a visitor's log-in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage, Warning  # noqa: A004  (Django's name)
from django.core.exceptions import ImproperlyConfigured

from django_ws import conf


def check_origins(**kwargs: Any) -> Iterator[CheckMessage]:
    try:
        origins = conf.read("WS_ALLOWED_ORIGINS") or ()
    except ImproperlyConfigured:
        return  # check_settings tells
    if "*" in origins:
        yield Warning(
            'WS_ALLOWED_ORIGINS contains "*": any page on the web can open sockets with the '
            "cookies, and so the log-in, of whoever visits it.",
            hint="List the origins of your pages, or leave the setting unset: then your own host "
            "and CSRF_TRUSTED_ORIGINS are allowed.",
            id="django_ws.W008",
        )
    plain = [origin for origin in origins if origin.lower().startswith("http://")]
    if plain:
        yield Warning(
            f"WS_ALLOWED_ORIGINS contains {', '.join(map(repr, plain))}: whoever is on the "
            "visitor's network can change such a page, and so use the visitor's sockets.",
            hint="Serve the pages with https and list them so.",
            id="django_ws.W009",
        )
