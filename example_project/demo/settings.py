"""The settings of the example project: made to be tried on one machine, not to be deployed.

DEMO_DEBUG=0 switches DEBUG off and then asks for DEMO_SECRET_KEY; DEMO_ALLOWED_HOSTS (separated
by commas), DEMO_DATABASE (a file) and DEMO_FRONT_END (an origin) change what their names say.
DEMO_BROADCAST (redis://...) is needed where the site runs in more than one process.
DEMO_TOKEN_IN_URL=1 lets tokens stand in URLs.
"""

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent

DEBUG = os.environ.get("DEMO_DEBUG", "1") not in ("0", "false", "no", "")

SECRET_KEY = os.environ.get("DEMO_SECRET_KEY", "")
if not SECRET_KEY:
    if not DEBUG:
        raise ImproperlyConfigured("DEMO_DEBUG is off: set DEMO_SECRET_KEY to a secret value.")
    SECRET_KEY = "for the demo only: everybody can read this key, so it protects nothing"

# Empty means, with DEBUG: localhost, 127.0.0.1 and [::1].
ALLOWED_HOSTS = [host for host in os.environ.get("DEMO_ALLOWED_HOSTS", "").split(",") if host]

INSTALLED_APPS = [
    "django_ws",
    "demo.apps.DemoAdminConfig",  # django.contrib.admin, with a site of our own
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "rest_framework.authtoken",
    "pages",
    # One app for each demo. The index lists them in this order.
    "weather",
    "echo",
    "counter",
    "chat",
    "notifications",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "pages.middleware.ContentSecurityPolicyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "demo.urls"  # so the WebSocket routes are in demo.ws_urls
ASGI_APPLICATION = "demo.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "pages.demos.context",
            ],
        },
    },
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DEMO_DATABASE", BASE_DIR / "db.sqlite3"),
        # Readers and one writer side by side; a second writer waits instead of failing.
        "OPTIONS": {
            "timeout": 20,  # seconds
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL",
        },
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Without it broadcasts reach the connections of this process alone.
if "DEMO_BROADCAST" in os.environ:
    WS_BROADCAST = os.environ["DEMO_BROADCAST"]

WS_MIDDLEWARE = [
    "django_ws.middleware.AuthMiddleware",
    # A token that is brought counts more than the session, so it comes second.
    "django_ws.middleware.TokenAuthMiddleware",
]

# Off, as by default: whatever keeps URLs would keep the token as well, and with it the log-in of
# a user for as long as the token lives. Such are the server's access log (uvicorn's line shows
# the query string), those of proxies, and error reports. Switch it on only for clients that can
# set neither a header nor a subprotocol.
WS_TOKEN_IN_URL = os.environ.get("DEMO_TOKEN_IN_URL", "0") not in ("0", "false", "no", "")

# The front end of the notifications, which runs on another port as one of another host would.
# Its pages may open sockets here, and read their user's token (notifications/views.py).
FRONT_END = os.environ.get("DEMO_FRONT_END", "http://127.0.0.1:8001")
CSRF_TRUSTED_ORIGINS = [FRONT_END]

AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "sesame.backends.ModelBackend",
]
SESAME_MAX_AGE = 30  # seconds; a token is used at once, and the next connection gets its own

LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "index"
LOGOUT_REDIRECT_URL = "index"

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "static/"
