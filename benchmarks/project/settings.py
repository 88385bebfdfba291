"""What `django-admin startproject` would need for a socket: log-in, sessions and a database."""

import os

SECRET_KEY = "only for benchmarks"
ALLOWED_HOSTS = ["127.0.0.1"]
USE_TZ = True
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("BENCHMARK_DATABASE", "benchmark.sqlite3"),
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "benchmarks.project.urls"
if "BENCHMARK_REDIS" in os.environ:
    WS_BROADCAST = os.environ["BENCHMARK_REDIS"]
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [os.environ["BENCHMARK_REDIS"]]},
        }
    }
if "BENCHMARK_DRAIN_SECONDS" in os.environ:
    WS_DRAIN_SECONDS = float(os.environ["BENCHMARK_DRAIN_SECONDS"])

# Without DEBUG Django mails errors and prints none; here they should be seen.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
}
