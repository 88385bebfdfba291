"""The settings of the example project: made to be tried on one machine, not to be deployed.

DEMO_DEBUG=0 switches DEBUG off and then asks for DEMO_SECRET_KEY; DEMO_ALLOWED_HOSTS (separated
by commas) and DEMO_DATABASE (a file) change what their names say. DEMO_BROADCAST (redis://...)
is needed where the site runs in more than one process.
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
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "pages",
    # One app for each demo. The index lists them in this order.
    "weather",
    "echo",
    "counter",
    "chat",
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

LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "index"
LOGOUT_REDIRECT_URL = "index"

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "static/"
