"""The settings of the site that is drained."""

import os

from tests.e2e.site.settings import *  # noqa: F403 - and what differs from them

ROOT_URLCONF = "tests.integration.server.drain_site.urls"
ROOT_WS_URLCONF = "tests.integration.server.drain_site.ws_urls"
WS_MIDDLEWARE = []
WS_DRAIN_SECONDS = float(os.environ.get("DRAIN_SECONDS", "0.2"))
WS_CLOSE_TIMEOUT = 40.0
WS_SEND_BUFFER = 64 * 1024 * 1024
