"""Checks that ``manage.py runserver`` is ours, so that it serves WebSockets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Warning  # noqa: A004  (Django's name)

OURS = "django_ws"
STATIC_FILES = "django.contrib.staticfiles"
OTHERS = {"daphne"}  # whose runserver serves WebSockets, too


def check_runserver(**kwargs: Any) -> Iterator[CheckMessage]:
    """Of two apps with a command of one name, Django takes the first in INSTALLED_APPS."""
    for config in apps.get_app_configs():
        if config.name == OURS or config.name in OTHERS:
            return
        if config.name == STATIC_FILES:
            yield Warning(
                f'"{OURS}" stands below "{STATIC_FILES}" in INSTALLED_APPS: manage.py runserver '
                "is that of the static files, which serves no WebSockets.",
                hint=f'Move "{OURS}" to the top of INSTALLED_APPS.',
                id="django_ws.W012",
            )
            return
