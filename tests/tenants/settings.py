"""A site with a schema of its own for each customer: users and sessions too."""

import json
import os

SECRET_KEY = "only for tests"
ALLOWED_HOSTS = [".localhost", "127.0.0.1"]
ROOT_URLCONF = "tests.tenants.urls"
ROOT_WS_URLCONF = "tests.tenants.ws"
USE_TZ = True

SHARED_APPS = [
    "django_tenants",
    "tests.tenants.customers.apps.CustomersConfig",
    "django.contrib.contenttypes",
]
TENANT_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
]
INSTALLED_APPS = ["django_ws", *SHARED_APPS, "django.contrib.auth", "django.contrib.sessions"]
TENANT_MODEL = "customers.Customer"
TENANT_DOMAIN_MODEL = "customers.Domain"
DATABASE_ROUTERS = ["django_tenants.routers.TenantSyncRouter"]
DATABASES = {
    "default": {
        "ENGINE": "django_tenants.postgresql_backend",
        "HOST": "127.0.0.1",
        "PORT": os.environ.get("TENANTS_PORT"),
        "USER": "tests",
        "NAME": "postgres",
        **json.loads(os.environ.get("TENANTS_DATABASE", "{}")),
    }
}

WS_MIDDLEWARE = ["tests.tenants.ws.tenant_middleware", "django_ws.middleware.AuthMiddleware"]
WS_SYNC_THREADS = 2  # so that customers share threads
WS_AUTH_RECHECK = 0.2
