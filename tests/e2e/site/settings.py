"""The settings of the site that the end-to-end tests serve: short time-outs, logs to the test."""

import os

from tests.settings import *  # noqa: F403 - the tests' own settings, and what differs from them

ROOT_URLCONF = "tests.e2e.site.urls"
ROOT_WS_URLCONF = "tests.e2e.site.ws_urls"
WS_MIDDLEWARE = [
    "tests.e2e.site.middleware.NoteLife",
    "tests.e2e.site.middleware.raise_on_demand",
    "django_ws.middleware.AuthMiddleware",
]
WS_CONNECT_TIMEOUT = 2.0
WS_CLOSE_TIMEOUT = 2.0

if "E2E_MAX_CONNECTIONS" in os.environ:
    WS_MAX_CONNECTIONS = int(os.environ["E2E_MAX_CONNECTIONS"])

if "E2E_REDIS" in os.environ:
    WS_BROADCAST = os.environ["E2E_REDIS"]
    CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": os.environ["E2E_REDIS"],
        }
    }

SESSION_ENGINE = os.environ.get("E2E_SESSION_ENGINE", "django.contrib.sessions.backends.db")

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"journal": {"class": "tests.e2e.site.journal.JournalLogHandler"}},
    # Not the root: servers print their own, which the tests read as well.
    "loggers": {
        name: {"handlers": ["journal"], "level": "INFO", "propagate": False}
        for name in ("django", "asyncio")
    },
}
