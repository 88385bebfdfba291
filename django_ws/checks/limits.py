"""Checks, with ``--deploy``, that limits per address count clients, and not a proxy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage, Warning  # noqa: A004  (Django's name)
from django.core.exceptions import ImproperlyConfigured

from django_ws import conf
from django_ws.conf.trusted_proxies import TrustedProxies


def check_limits(**kwargs: Any) -> Iterator[CheckMessage]:
    try:
        limit = conf.read("WS_MAX_CONNECTIONS_PER_ADDRESS")
        proxies = conf.read("WS_TRUSTED_PROXIES")
    except ImproperlyConfigured:
        return  # check_settings tells
    if limit is not None and proxies == TrustedProxies():
        yield Warning(
            "WS_MAX_CONNECTIONS_PER_ADDRESS is set, and WS_TRUSTED_PROXIES is not: behind a proxy "
            "all anonymous visitors count as one address, the proxy's, or as one without any "
            "where it comes over a Unix socket.",
            hint='Name the proxy in WS_TRUSTED_PROXIES; "unix" for one that comes over a Unix '
            "socket. Without a proxy, or where the server itself reads X-Forwarded-For, silence "
            "this check.",
            id="django_ws.W024",
        )
