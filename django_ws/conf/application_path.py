"""The ASGI application that the commands serve: ``ASGI_APPLICATION``."""

from __future__ import annotations

from typing import Any

from django.conf import settings


def application_path() -> Any:
    """``ASGI_APPLICATION`` as it is, or the dotted path where ``startproject`` puts it."""
    path = getattr(settings, "ASGI_APPLICATION", None)
    if path:
        return path
    package, _, _ = str(getattr(settings, "ROOT_URLCONF", "")).rpartition(".")
    return f"{package}.asgi.application".lstrip(".")
