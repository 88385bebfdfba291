"""Checks that each ``WS_*`` setting has a valid value and a known name."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004  (Django's name)
from django.core.exceptions import ImproperlyConfigured

from django_ws import conf

SIMILAR = 0.8  # of 1.0; below that it is rather a setting of the project's own


def check_settings(**kwargs: Any) -> Iterator[CheckMessage]:
    for name, setting in conf.SETTINGS.items():
        try:
            value = getattr(settings, name)
        except AttributeError:
            try:
                setting.default()
            except ImproperlyConfigured as error:
                yield Error(str(error), hint=setting.cure, id="django_ws.E001")
            continue
        try:
            setting.parse(value)
        except ValueError as error:
            yield Error(f"{name}: {error}.", hint=setting.cure, id="django_ws.E001")
    yield from _misspelt()


def _misspelt() -> Iterator[CheckMessage]:
    for name in dir(settings):
        if not name.startswith(("WS_", "ROOT_WS_")) or name in conf.SETTINGS:
            continue
        for likely in get_close_matches(name, conf.SETTINGS, n=1, cutoff=SIMILAR):
            yield Warning(
                f"{name}: no setting of django_ws has this name; {likely} is meant?",
                hint=f"Rename it to {likely}. If it is a setting of your own, silence this check.",
                id="django_ws.W001",
            )
