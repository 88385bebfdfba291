"""The settings of the site that `runws` serves in its tests."""

import os
from typing import Any

from tests.settings import *  # noqa: F403 - the tests' own settings, and what differs from them

ROOT_URLCONF = "tests.integration.server.runws_site.urls"
ROOT_WS_URLCONF = "tests.integration.server.runws_site.ws_urls"
ASGI_APPLICATION = "tests.integration.server.runws_site.asgi.application"
if "RUNWS_NO_ASGI" in os.environ:
    del ASGI_APPLICATION
WS_MIDDLEWARE: list[str] = []
WS_MAX_MESSAGE_SIZE = 1000
WS_DRAIN_SECONDS = 0.5
WS_CLOSE_TIMEOUT = 600.0  # longer than any test: what lingers is ended by others

FORCE_SCRIPT_NAME = os.environ.get("RUNWS_SCRIPT_NAME")

if "RUNWS_BACKEND" in os.environ:
    WS_BROADCAST = {"default": {"BACKEND": os.environ["RUNWS_BACKEND"]}}

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"django": {"handlers": ["console"], "level": "INFO"}},
}
if "RUNWS_LOGGERS" in os.environ:  # which it gives a level, and nothing else
    for _name in os.environ["RUNWS_LOGGERS"].split():
        LOGGING["loggers"][_name] = {"level": "INFO"}
if "RUNWS_LOGGING" in os.environ:
    LOGGING = {"version": 1}  # which disables the loggers that are there already
