"""The Django settings that the tests run with."""

import os
from pathlib import Path

import django

_DATABASES = Path(__file__).parent / ".tmp"
_DATABASES.mkdir(exist_ok=True)

SECRET_KEY = "only for tests"
ALLOWED_HOSTS = ["testserver", "localhost", "127.0.0.1", "[::1]"]
USE_TZ = True

INSTALLED_APPS = [
    "django_ws",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "rest_framework.authtoken",
    "tests.user_models.apps.AuthTestsConfig",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
STATIC_URL = "static/"

ROOT_URLCONF = "tests.urls"
ROOT_WS_URLCONF = "tests.ws_urls"
ASGI_APPLICATION = "tests.asgi.application"

# A real file, since a database in memory is one connection's alone. A server in a process of its
# own is told by the environment which file the test uses; the process id lets two runs go side by
# side (a worker of pytest-xdist appends its name as well).
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DJANGO_WS_TEST_DATABASE", _DATABASES / "db.sqlite3"),
        # Nothing is to outlive a power cut: no statement waits for the disk.
        "OPTIONS": {"timeout": 20, "init_command": "PRAGMA synchronous=OFF"},
        "TEST": {"NAME": str(_DATABASES / f"test-{os.getpid()}.sqlite3")},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Fast, and good enough for a password that everybody may know.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

if django.VERSION >= (6, 1):  # which warns of projects that do not have it
    MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}
