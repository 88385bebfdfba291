"""Says once, at start-up, what does not work without "django_ws" in INSTALLED_APPS."""

from __future__ import annotations

import logging

from django.apps import apps

logger = logging.getLogger("django.ws")


def tell_what_is_missing() -> None:
    """One line at INFO, which Django's own LOGGING shows under ``DEBUG``: sockets work without."""
    if not apps.is_installed("django_ws"):
        logger.info(
            '"django_ws" is not in INSTALLED_APPS. Sockets are served; but there are no system '
            "checks, no commands (runws, runserver with sockets, startws, wsbroadcast, wscheck), "
            "no {% ws_url %}, and a log-out in a process without sockets (WSGI, Celery) closes "
            "none. Put it at the top."
        )
