"""The settings of the site that is attacked: every bound is set, and short."""

from tests.e2e.site.settings import *  # noqa: F403 - the same, and what differs from it

ROOT_WS_URLCONF = "tests.integration.security.site.ws_urls"
WS_MIDDLEWARE = [
    "tests.integration.security.site.handlers.count",
    "django_ws.middleware.AuthMiddleware",
    "django_ws.middleware.TokenAuthMiddleware",
    "django_ws.middleware.TicketAuthMiddleware",
]
WS_CONNECT_TIMEOUT = 1.0
WS_MAX_HANDSHAKES = 10_000  # as many as the tests leave hanging, by hand
WS_CLOSE_TIMEOUT = 1.0
WS_MAX_TOPICS = 10
