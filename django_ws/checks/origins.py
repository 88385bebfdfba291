"""Checks the allowed origins: that they can match, and are not dangerous."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004  (Django's name)
from django.core.exceptions import ImproperlyConfigured

from django_ws import conf
from django_ws.conf.web_origin import listing_fault, names_nobody


def check_listed_origins(**kwargs: Any) -> Iterator[CheckMessage]:
    for origin in _allowed():
        if origin != "*" and (fault := listing_fault(origin)):
            yield Error(
                f"WS_ALLOWED_ORIGINS contains {origin!r}, which no page has: {fault}.",
                hint="Correct it, or remove it.",
                id="django_ws.E022",
            )
    for origin in _trusted():
        # Django's own check tells of those without a scheme.
        if "://" in origin and (fault := listing_fault(origin)):
            yield Warning(
                f"CSRF_TRUSTED_ORIGINS contains {origin!r}, which no page has: {fault}.",
                hint="Correct it, or remove it: it allows neither forms nor sockets.",
                id="django_ws.W023",
            )


def check_proxy_header(**kwargs: Any) -> Iterator[CheckMessage]:
    header = settings.SECURE_PROXY_SSL_HEADER
    if header and not (
        isinstance(header, tuple | list)
        and len(header) == 2
        and all(isinstance(item, str) for item in header)
    ):
        yield Error(
            f"SECURE_PROXY_SSL_HEADER is {header!r}, and not a header's name and its value: "
            "every handshake of a browser would be answered with 500.",
            hint='Write ("HTTP_X_FORWARDED_PROTO", "https"), for example.',
            id="django_ws.E023",
        )


def _allowed() -> Sequence[str]:
    try:
        return conf.read("WS_ALLOWED_ORIGINS") or ()
    except ImproperlyConfigured:
        return ()  # check_settings tells


def _trusted() -> list[str]:
    trusted: Any = settings.CSRF_TRUSTED_ORIGINS or ()
    return [origin for origin in trusted if isinstance(origin, str)]


def check_origins(**kwargs: Any) -> Iterator[CheckMessage]:
    """Under ``check --deploy`` alone."""
    origins = _allowed()
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
    nobody = [origin for origin in (*origins, *_trusted()) if names_nobody(origin)]
    if nobody:
        yield Warning(
            f"{', '.join(map(repr, dict.fromkeys(nobody)))} may open sockets: any page can have "
            "that origin, from a frame in a sandbox or a file on disk. So the cookies of such a "
            "handshake do not count, and it is anonymous unless it brings a token or ticket.",
            hint="Let every handler that is not for everybody ask for a log-in, and silence this "
            "check. Remove the entry if no app of yours needs it.",
            id="django_ws.W022",
        )
